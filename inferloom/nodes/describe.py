"""What a node is, for people and programs: its rules, its parameters with their ranges, and a step to copy."""

from __future__ import annotations

import inspect
import io
from typing import TypedDict, cast

from pydantic_core import PydanticUndefined
from ruamel.yaml import YAML

from inferloom.core.types import Json
from inferloom.nodes.base import NODES, Node, Thing
from inferloom.nodes.prompts import load_pack


class ParameterDescription(TypedDict):
    """One parameter; `type` in words, `range` what is legal beyond the type ("1 to 1024", "one of a, b")."""

    name: str
    type: str
    required: bool
    default: Json
    range: str | None
    description: str
    model: bool
    """Whether it names a model of the pipeline."""
    search: list[Json] | None
    """The values that a search tries where a space does not say."""


class NodeDescription(TypedDict):
    """A node with its rules as they are for its example parameters."""

    name: str
    summary: str
    paper: str | None
    requires: list[str]
    provides: list[str]
    drops: list[str]
    needs: list[str]
    """Capabilities that its models must have."""
    calls: dict[str, list[int]]
    """The least and the most completions drawn when 1, 4 or 16 candidates come in."""
    static: bool
    oracle: bool
    pocket: bool
    """Whether the pocket models were taught what it asks of them."""
    parameters: list[ParameterDescription]
    snippet: str
    pipeline: str


_BEFORE: tuple[tuple[Thing, str], ...] = (
    ("notes", "- safety: {rules: Answer in English.}"),
    ("candidates", "- sample: {model: small, n: 4}"),
    ("scores", "- score: {model: large}"),
    ("critiques", "- critique: {model: large}"),
    ("tests", "- unit_tests: {model: large}"),
)
"""The steps that a pipeline for showing a node gets before it, by what the node requires."""
_SIZES = ("small", "large")
_AFTER = "- sample: {model: small}"


def describe(name: str) -> NodeDescription:
    """Describe a node by name.

    Raises:
        UnknownNameError: No node has this name.
    """
    node = NODES.get(name)
    instance = node(node.Params.model_validate(node.example()))
    return {
        "name": name,
        "summary": (inspect.getdoc(node) or "").split("\n")[0],
        "paper": node.paper or None,
        "requires": sorted(instance.requires),
        "provides": sorted(instance.provides),
        "drops": sorted(instance.drops),
        "needs": sorted(instance.needs),
        "calls": {str(count): list(instance.calls(count)) for count in (1, 4, 16)},
        "static": node.static,
        "oracle": instance.oracle,
        "pocket": _known_to_pocket(instance),
        "parameters": _parameters(name),
        "snippet": snippet(name),
        "pipeline": pipeline(name),
    }


def _known_to_pocket(node: Node) -> bool:
    # Notes in prose are not what they were taught to read.
    return node.roles <= set(load_pack("pocket").roles) and "notes" not in node.requires | node.provides


def pipeline(name: str) -> str:
    """A whole pipeline that shows the node, as YAML; on the pocket models where they know what it asks.

    Raises:
        UnknownNameError: No node has this name.
    """
    node = NODES.get(name)
    instance = node(node.Params.model_validate(node.example()))
    wanted = set(instance.requires)
    if wanted & {"scores", "critiques", "tests"}:
        wanted.add("candidates")
    lines = [line for thing, line in _BEFORE if thing in wanted]
    lines += snippet(name).rstrip("\n").split("\n")
    if "candidates" not in instance.requires | instance.provides:
        lines.append(_AFTER)
    known = _known_to_pocket(instance)
    models = [f"  {size}: {f'pocket:{size}' if known else f'openai:YOUR-{size.upper()}-MODEL'}" for size in _SIZES]
    shown = "\n".join(lines)
    used = [line for size, line in zip(_SIZES, models, strict=True) if f": {size}" in shown or f"- {size}" in shown]
    return "\n".join(["models:", *used, "steps:", *(f"  {line}" for line in lines)]) + "\n"


def snippet(name: str) -> str:
    """A step of a pipeline with the node's example parameters, as YAML to copy under `steps:`.

    Raises:
        UnknownNameError: No node has this name.
    """
    text = io.StringIO()
    yaml = YAML(typ="safe")
    yaml.default_flow_style = False
    # `{}` keeps a step without parameters on one line.
    example = NODES.get(name).example()
    yaml.dump([{name: example}] if example else [name], text)
    return text.getvalue()


def _parameters(name: str) -> list[ParameterDescription]:
    params = NODES.get(name).Params
    schemas = cast(dict[str, dict[str, Json]], params.model_json_schema()["properties"])
    described: list[ParameterDescription] = []
    for field, info in params.model_fields.items():
        schema = schemas[field]
        extra = info.json_schema_extra if isinstance(info.json_schema_extra, dict) else {}
        search = extra.get("search")
        described.append(
            {
                "name": field,
                "type": _type(schema),
                "required": info.is_required(),
                "default": None if info.default is PydanticUndefined else schema.get("default"),
                "range": _range(schema),
                "description": info.description or "",
                "model": bool(extra.get("model")),
                "search": search if isinstance(search, list) else None,
            }
        )
    return described


_WORDS = {"integer": "whole number", "number": "number", "boolean": "true or false", "string": "text", "null": "none"}


def _variants(schema: dict[str, Json]) -> list[dict[str, Json]]:
    """The schemas that a value may fit; `none` is said by the default."""
    variants = cast(list[dict[str, Json]], schema.get("anyOf", [schema]))
    return [variant for variant in variants if variant.get("type") != "null"]


def _type(schema: dict[str, Json]) -> str:
    words = []
    for variant in _variants(schema):
        if variant.get("type") == "array":
            items = cast(dict[str, Json], variant.get("items", {}))
            words.append(f"list of {_type(items)}s" if "$ref" not in items else "list of mappings")
        else:
            words.append(_WORDS.get(str(variant.get("type")), "mapping"))
    return " or ".join(words)


def _range(schema: dict[str, Json]) -> str | None:
    for variant in _variants(schema):
        if isinstance(choices := variant.get("enum"), list):
            return "one of " + ", ".join(str(choice) for choice in choices)
        if "const" in variant:
            return f"only {variant['const']}"
        low, above = variant.get("minimum"), variant.get("exclusiveMinimum")
        high, below = variant.get("maximum"), variant.get("exclusiveMaximum")
        start = None if low is None else f"{low}"
        start = f"above {above}" if above is not None else start
        end = f"below {below}" if below is not None else None if high is None else f"{high}"
        if start and end:
            return f"{start} to {end}"
        if start:
            return start if above is not None else f"at least {start}"
        if end:
            return end if below is not None else f"at most {end}"
    return None
