"""A node's parameters from their YAML values; errors say what is wrong, what is legal and what was probably meant."""

from __future__ import annotations

import json
from collections.abc import Mapping

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from inferloom.core.errors import SpecError, nearest
from inferloom.core.types import Json
from inferloom.nodes.base import Node, Params, marked_fields
from inferloom.pipelines.document import Document, Place, field_name

_TYPES = {
    "integer": "a whole number",
    "number": "a number",
    "string": "text",
    "boolean": "true or false",
    "array": "a list",
    "object": "a mapping",
    "null": "null",
}
_WORDS = {
    "Input should be": "must be",
    "Input should": "must",
    "Field required": "a required field is missing",
    "Extra inputs are not permitted": "unknown field",
    "a valid string": "text",
    "a valid integer": "a whole number",
    "a valid number": "a number",
    "a valid boolean": "true or false",
    "a valid array": "a list",
    "an object": "a mapping",
}


def parse_params(
    document: Document, kind: type[Node], body: Json, place: Place, models: Mapping[str, object]
) -> tuple[Params, dict[str, Json]]:
    """The validated parameters of a node, and what was written of them, by name.

    Args:
        document: For the places of errors.
        kind: The node's class.
        body: A mapping of parameters, or the value of the first one, or None.
        place: Where the body stands.
        models: The pipeline's models by name.

    Raises:
        SpecError: An unknown parameter, a wrong value, or an unknown model.
    """
    fields = kind.Params.model_fields
    written: dict[str, Json]
    if body is None:
        written = {}
    elif isinstance(body, dict):
        written = body
    elif not fields:
        raise document.error(place, f"`{kind.name}` has no parameters")
    else:
        written = {next(iter(fields)): body}
    short = not isinstance(body, dict)
    try:
        # Strict, through JSON: "4" is no number and 1 is no truth value, but a list is fine for a tuple.
        params = kind.Params.model_validate_json(json.dumps(written), strict=True)
    except ValidationError as error:
        raise _explained(document, kind, error, written, place, short) from None
    for field in marked_fields(kind.Params, "model"):
        _check_models(document, getattr(params, field), place if short else (*place, field), models)
    return params, written


def _check_models(document: Document, value: object, place: Place, models: Mapping[str, object]) -> None:
    several = isinstance(value, list | tuple)
    for position, name in enumerate(value if isinstance(value, list | tuple) else [value]):
        if name is not None and name not in models:
            near = nearest(str(name), models)
            known = "" if near else f"; the pipeline's models are {', '.join(models)}"
            raise document.error((*place, position) if several else place, f"unknown model `{name}`{known}", near)


def _explained(
    document: Document, kind: type[Node], error: ValidationError, written: dict[str, Json], place: Place, short: bool
) -> SpecError:
    """The first error of pydantic's as one sentence of ours."""
    details = error.errors(include_url=False)
    first = details[0]
    if not first["loc"]:
        return document.error(place, f"`{kind.name}`: {_message(first).removeprefix(kind.name).strip()}")
    field = str(first["loc"][0])
    at = place if short else (*place, field)
    fields = kind.Params.model_fields
    if first["type"] == "extra_forbidden" and len(first["loc"]) == 1:
        near = nearest(field, fields)
        known = "" if near else f"; it has {', '.join(fields)}" if fields else "; it has none"
        return document.error(at, f"unknown parameter `{field}` of `{kind.name}`{known}", near)
    if first["type"] == "missing" and len(first["loc"]) == 1:
        return document.error(place, f"`{kind.name}` needs the parameter `{field}`")
    schema = kind.Params.model_json_schema()
    allowed = _allowed(schema["properties"].get(field, {}), schema.get("$defs", {}))
    inner, value = _inside(written.get(field), first["loc"][1:])
    name = field_name((field, *inner))
    if allowed is None or inner or first["type"] in ("value_error", "assertion_error"):
        return document.error(
            (*at, *inner), f"`{name}` of `{kind.name}` is wrong: {_message(first)}, not {_shown(value)}"
        )
    near = None
    choices = _choices(schema["properties"].get(field, {}), schema.get("$defs", {}))
    if choices and isinstance(value, str):
        near = nearest(value, choices)
    return document.error(at, f"`{name}` of `{kind.name}` must be {allowed}, not {_shown(value)}", near)


def _inside(value: Json, location: tuple[str | int, ...]) -> tuple[tuple[str | int, ...], Json]:
    """The part of pydantic's location that leads into a value, and what is there; the rest names a union's branch."""
    way: tuple[str | int, ...] = ()
    for part in location:
        items: dict[str | int, Json] = {}
        if isinstance(value, list):
            items.update(enumerate(value))
        elif isinstance(value, dict):
            items.update(value.items())
        if part in items:
            way, value = (*way, part), items[part]
    return way, value


def _message(details: ErrorDetails) -> str:
    text = details["msg"].removeprefix("Value error, ").removeprefix("Assertion failed, ")
    for pydantics, ours in _WORDS.items():
        text = text.replace(pydantics, ours)
    return text.rstrip(".")


def _allowed(schema: dict[str, object], defs: dict[str, object]) -> str | None:
    """The legal values that a field's JSON schema states, in words; None where it says too little."""
    schema = _resolved(schema, defs)
    options = schema.get("anyOf")
    if isinstance(options, list):
        parts = [_allowed(option, defs) for option in options]
        return None if None in parts else " or ".join(dict.fromkeys(part for part in parts if part))
    if "const" in schema:
        return f"`{schema['const']}`"
    if isinstance(schema.get("enum"), list):
        return "one of " + ", ".join(f"`{value}`" for value in schema["enum"])  # type: ignore[attr-defined] # a list
    kind = _TYPES.get(str(schema.get("type")))
    if kind is None:
        return None
    least, most = schema.get("minimum"), schema.get("maximum")
    above, below = schema.get("exclusiveMinimum"), schema.get("exclusiveMaximum")
    bounds = []
    if least is not None and most is not None:
        bounds.append(f"from {least} to {most}")
    else:
        bounds += [f"at least {least}"] if least is not None else []
        bounds += [f"above {above}"] if above is not None else []
        bounds += [f"at most {most}"] if most is not None else []
        bounds += [f"below {below}"] if below is not None else []
    for key, word in (("minLength", "characters"), ("minItems", "values")):
        if schema.get(key):
            bounds.append("that is not empty" if schema[key] == 1 else f"of at least {schema[key]} {word}")
    for key, word in (("maxLength", "characters"), ("maxItems", "values")):
        if schema.get(key) is not None:
            bounds.append(f"of at most {schema[key]} {word}")
    return " ".join([kind, " and ".join(bounds)]) if bounds else kind


def _choices(schema: dict[str, object], defs: dict[str, object]) -> list[str]:
    schema = _resolved(schema, defs)
    found: list[str] = []
    options = schema.get("anyOf")
    for option in options if isinstance(options, list) else []:
        found += _choices(option, defs)
    values = schema.get("enum")
    found += [str(value) for value in values] if isinstance(values, list) else []
    return found


def _resolved(schema: dict[str, object], defs: dict[str, object]) -> dict[str, object]:
    reference = schema.get("$ref")
    if isinstance(reference, str):
        target = defs.get(reference.rpartition("/")[2])
        return target if isinstance(target, dict) else {}
    return schema


def _shown(value: Json) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if value is None:
        return "nothing"
    if isinstance(value, str):
        return f"`{value}`" if len(value) <= 60 else f"`{value[:57]}...`"
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."
