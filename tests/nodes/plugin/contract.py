"""The plugin's own tests: the contract suite of inferloom. `test_plugin.py` runs them where the plugin is installed."""

import pytest

from inferloom.nodes.testing import NodeCase, NodeContract


@pytest.mark.parametrize("case", [NodeCase("shout/first"), NodeCase("shout/first", {"count": 2})], ids=str)
class TestFirst(NodeContract):
    pass
