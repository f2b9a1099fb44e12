"""The OpenAPI description of a server: what it takes and what it answers, status by status."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from inferloom.core.types import Json
from inferloom.serving.wire import ChatRequest, FeedbackRequest

_STRING: Json = {"type": "string"}
_TEXT_OR_NULL: Json = {"type": ["string", "null"]}
_COUNT: Json = {"type": "integer", "minimum": 0}
_RUN: Json = {"type": "string", "pattern": "^[0-9a-f]{32}$"}
_MEANINGS = {
    400: "The request is wrong; the message names the field, what stands there, and what may",
    401: "No valid API key",
    403: "The API key may not do this",
    404: "There is no such thing, or it belongs to another key",
    408: "The body came too slowly",
    409: "The same request is still running",
    413: "The body is too long",
    422: "The `Idempotency-Key` was used for another body",
    429: "The key's budget, rate or number of requests is used up",
    500: "The pipeline could not be run",
    502: "A model of the pipeline failed",
    503: "Overloaded, or without a database that takes writes",
    504: "A model, or the whole answer, took too long",
}


def description(models: Sequence[str], locked: bool) -> dict[str, Json]:
    """The document.

    Args:
        models: The names that are served.
        locked: Whether an API key is needed.
    """
    kinds: list[type[BaseModel]] = [ChatRequest, FeedbackRequest]
    _, definitions = models_json_schema(
        [(kind, "validation") for kind in kinds], ref_template="#/components/schemas/{model}"
    )
    schemas: dict[str, Json] = {**definitions["$defs"], **_schemas()}
    chat = schemas["ChatRequest"]
    assert isinstance(chat, dict)
    properties = chat["properties"]
    assert isinstance(properties, dict)
    properties["model"] = {"type": "string", "enum": list(models)}
    document: dict[str, Json] = {
        "openapi": "3.1.0",
        "info": {
            "title": "inferloom",
            "version": version("inferloom"),
            "description": "Pipelines of inference-time techniques behind OpenAI's chat completions.",
        },
        "paths": _paths(models, locked),
        "components": {"schemas": schemas},
    }
    if locked:
        components = document["components"]
        assert isinstance(components, dict)
        components["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
    return document


def _paths(models: Sequence[str], locked: bool) -> dict[str, Json]:
    key = (401,) if locked else ()
    return {
        "/v1/models": {"get": _operation("The pipelines that are served", _json("Models"), key, locked)},
        "/v1/models/{model}": {
            "get": _operation(
                "One of the pipelines",
                _json("Model"),
                (*key, 404),
                locked,
                parameters=[_parameter("model", "path", {"type": "string", "minLength": 1})],
            )
        },
        "/v1/chat/completions": {
            "post": _operation(
                "Have a pipeline answer a conversation",
                {**_json("Completion"), "text/event-stream": {"schema": _STRING}},
                (400, *key, 403, 404, 408, 409, 413, 422, 429, 500, 502, 503, 504),
                locked,
                body="ChatRequest",
                example={"model": models[0], "messages": [{"role": "user", "content": "12+34"}]},
                parameters=[
                    _parameter(
                        "Idempotency-Key",
                        "header",
                        {"type": "string", "pattern": "^[!-~]{1,255}$"},
                        "The same key with the same body gives the same answer and repeats no call",
                    )
                ],
            )
        },
        "/v1/feedback": {
            "post": _operation(
                "Score a run",
                _json("Feedback"),
                (400, *key, 404, 408, 413, 503),
                locked,
                body="FeedbackRequest",
                status="201",
            )
        },
        "/runs/{run}": {
            "get": _operation(
                "What a run did, step by step and call by call",
                {**_json("Run"), "text/html": {"schema": _STRING}},
                (*key, 404),
                locked,
                parameters=[_parameter("run", "path", _RUN)],
            )
        },
        "/healthz": {"get": _operation("Whether the server takes requests", _json("Health"), (503,), False)},
        "/metrics": {
            "get": _operation(
                "Figures for Prometheus",
                {"text/plain": {"schema": _STRING}},
                (*key, *((403,) if locked else ())),
                locked,
            )
        },
        "/openapi.json": {
            "get": _operation("This description", {"application/json": {"schema": {"type": "object"}}}, (), False)
        },
    }


def _operation(
    summary: str,
    content: Json,
    errors: Sequence[int],
    locked: bool,
    *,
    body: str | None = None,
    example: Json = None,
    parameters: Sequence[Json] = (),
    status: str = "200",
) -> Json:
    responses: dict[str, Json] = {status: {"description": "Done", "content": content}}
    for error in errors:
        responses[str(error)] = {"description": _MEANINGS[error], "content": _json("Error")}
    operation: dict[str, Json] = {"summary": summary, "responses": responses}
    if parameters:
        operation["parameters"] = list(parameters)
    if body is not None:
        operation["requestBody"] = {"required": True, "content": _json(body, example)}
    if locked:
        operation["security"] = [{"key": []}]
    return operation


def _parameter(name: str, place: str, schema: Json, told: str = "") -> Json:
    return {"name": name, "in": place, "required": place == "path", "schema": schema, "description": told}


def _json(schema: str, example: Json = None) -> dict[str, Json]:
    content: dict[str, Json] = {"schema": {"$ref": f"#/components/schemas/{schema}"}}
    return {"application/json": content if example is None else {**content, "example": example}}


def _schemas() -> dict[str, Json]:
    """What the server answers."""
    usage = _object(
        calls=_COUNT,
        prompt_tokens=_COUNT,
        cached_tokens=_COUNT,
        completion_tokens=_COUNT,
        usd={"type": "number"},
        seconds={"type": "number"},
    )
    account = _object(
        run=_RUN,
        answer=_TEXT_OR_NULL,
        stopped=_TEXT_OR_NULL,
        usage=usage,
        billed=usage,
        unknown_at_most=usage,
        wall_seconds={"type": "number"},
    )
    choice = _object(
        index=_COUNT,
        message=_object(role={"const": "assistant"}, content=_TEXT_OR_NULL, refusal={"type": "null"}),
        logprobs={"type": ["object", "null"]},
        finish_reason={"enum": ["stop", "length", "tool_calls"]},
    )
    model = _object(id=_STRING, object={"const": "model"}, created=_COUNT, owned_by=_STRING)
    error = _object(message=_STRING, type=_STRING, param=_TEXT_OR_NULL, code=_TEXT_OR_NULL)
    tokens = _object(
        prompt_tokens=_COUNT,
        completion_tokens=_COUNT,
        total_tokens=_COUNT,
        prompt_tokens_details=_object(cached_tokens=_COUNT),
    )
    listed: Json = {"type": "array", "items": {"type": "object"}}
    return {
        "Error": _object(error=error),
        "Model": model,
        "Models": _object(object={"const": "list"}, data={"type": "array", "items": model}),
        "Completion": _object(
            id=_STRING,
            object={"const": "chat.completion"},
            created=_COUNT,
            model=_STRING,
            choices={"type": "array", "items": choice},
            usage=tokens,
            inferloom=_object(runs={"type": "array", "items": account}),
        ),
        "Feedback": _object(id=_STRING, object={"const": "inferloom.feedback"}, run=_RUN, score={"type": "number"}),
        "Run": _object(
            id=_RUN,
            object={"const": "inferloom.run"},
            status={"enum": ["running", "done", "failed", "interrupted"]},
            pipeline=_STRING,
            question=_STRING,
            answer=_TEXT_OR_NULL,
            stopped=_TEXT_OR_NULL,
            error=_TEXT_OR_NULL,
            started={"type": "number"},
            ended={"type": ["number", "null"]},
            usage=usage,
            billed=usage,
            unknown_at_most=usage,
            steps=listed,
            candidates=listed,
            calls=listed,
            feedback=listed,
        ),
        "Health": _object(status={"const": "ok"}, pipelines=_COUNT),
    }


def _object(**properties: Json) -> Json:
    return {"type": "object", "properties": properties, "required": list(properties)}
