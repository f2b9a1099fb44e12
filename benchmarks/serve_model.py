"""The model of `benchmarks/serve.py`: OpenAI's chat completions on loopback, half a second a call, whatever `n`.

python benchmarks/serve_model.py PORT
"""

from __future__ import annotations

import asyncio
import json
import sys
from random import Random

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

SECONDS = 0.5
_CHANCE = Random(1)


async def chat(request: Request) -> Response:
    """`n` choices that mostly agree."""
    body = json.loads(await request.body())
    await asyncio.sleep(SECONDS)
    choices = [
        {
            "index": index,
            "message": {"role": "assistant", "content": f"so it must be\nA: {min(9, int(_CHANCE.expovariate(1)))}"},
            "finish_reason": "stop",
        }
        for index in range(body.get("n") or 1)
    ]
    usage = {"prompt_tokens": 20, "completion_tokens": 6 * len(choices), "total_tokens": 20 + 6 * len(choices)}
    return JSONResponse(
        {
            "id": "c",
            "object": "chat.completion",
            "created": 0,
            "model": body["model"],
            "choices": choices,
            "usage": usage,
        }
    )


async def models(request: Request) -> Response:
    """The one model."""
    return JSONResponse({"object": "list", "data": [{"id": "m", "object": "model"}]})


app = Starlette(routes=[Route("/v1/chat/completions", chat, methods=["POST"]), Route("/v1/models", models)])

if __name__ == "__main__":
    uvicorn.run(app, port=int(sys.argv[1]), log_level="warning", access_log=False)
