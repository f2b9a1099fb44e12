"""What a package shows is what it promises: `__all__` lists exactly the public names."""

from __future__ import annotations

import importlib
import pkgutil
from types import ModuleType

import pytest

import inferloom

PACKAGES = ["inferloom"] + [
    module.name
    for module in pkgutil.walk_packages(inferloom.__path__, "inferloom.")
    if module.ispkg and ".pocket" not in module.name and ".migrations" not in module.name
]


def visible(module: ModuleType) -> set[str]:
    """Public names of a package that were defined in it or in its own modules."""
    return {
        name
        for name in dir(module)
        if not name.startswith("_") and not isinstance(getattr(module, name), ModuleType)
        if str(getattr(getattr(module, name), "__module__", "")).startswith(module.__name__)
    }


@pytest.mark.parametrize("name", PACKAGES)
def test_all_equals_what_is_visible(name: str) -> None:
    module = importlib.import_module(name)
    promised = set(getattr(module, "__all__", ()))
    # A promised name may load late; it has to come when it is asked for.
    resolved = {name for name in promised if hasattr(module, name)}
    assert promised - resolved == set()
    assert visible(module) - promised == set()


def test_all_is_sorted_and_every_name_resolves() -> None:
    assert list(inferloom.__all__) == sorted(inferloom.__all__)
    for name in inferloom.__all__:
        assert getattr(inferloom, name) is not None


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'laod'"):
        inferloom.laod  # noqa: B018


def test_version_is_the_installed_one() -> None:
    from importlib.metadata import version

    assert inferloom.__version__ == version("inferloom")
