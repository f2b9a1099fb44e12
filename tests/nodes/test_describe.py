"""Descriptions of nodes: what `inferloom nodes` shows."""

import json

import pytest
from ruamel.yaml import YAML

from inferloom.core.errors import UnknownNameError
from inferloom.nodes.base import NODES
from inferloom.nodes.describe import describe, snippet


@pytest.mark.parametrize("name", NODES.names())
def test_every_node_is_described_in_plain_json(name: str) -> None:
    described = describe(name)
    assert json.loads(json.dumps(described)) == described
    assert described["summary"].endswith(".")
    assert {parameter["name"] for parameter in described["parameters"]} == set(NODES.get(name).Params.model_fields)


@pytest.mark.parametrize("name", NODES.names())
def test_the_snippet_is_a_list_of_one_step_that_validates(name: str) -> None:
    (step,) = YAML(typ="safe").load(snippet(name))
    params = {} if step == name else step[name]
    NODES.get(name).Params.model_validate(params)


def test_types_ranges_and_defaults_are_in_words() -> None:
    parameters = {parameter["name"]: parameter for parameter in describe("sample")["parameters"]}
    assert parameters["n"] == {
        "name": "n",
        "type": "whole number",
        "required": False,
        "default": 1,
        "range": "1 to 1024",
        "description": "Candidates drawn from each model in each style",
        "model": False,
        "search": [1, 2, 4, 8, 16],
    }
    assert parameters["model"]["type"] == "text or list of texts"
    assert parameters["model"]["required"] and parameters["model"]["model"]
    assert parameters["top_p"]["range"] == "above 0 to 1"
    methods = next(parameter for parameter in describe("score")["parameters"] if parameter["name"] == "method")
    assert methods["range"] == "one of judge, logprob, callable"


def test_requires_and_provides_come_from_the_node() -> None:
    described = describe("vote")
    assert (described["requires"], described["provides"]) == (["candidates"], ["one", "scores"])


def test_an_unknown_node_names_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match="unknown node `rnak`; did you mean `rank`"):
        describe("rnak")
