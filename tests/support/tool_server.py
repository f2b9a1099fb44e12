"""An HTTP server on loopback that calls the first tool it is offered, in pieces where the reply is streamed."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

PIECES = ('{"a": ', "1, ", '"b": 2}')
"""The arguments of every call, as a stream cuts them."""


class ToolServer:
    """Speaks `/v1/chat/completions`; `bodies` are the requests so far."""

    def __init__(self) -> None:
        self.bodies: list[dict[str, Any]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, format: str, *args: object) -> None:
                pass

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                outer.bodies.append(body)
                streamed = bool(body.get("stream"))
                text = events(body) if streamed else json.dumps(whole(body))
                self.send_response(200)
                self.send_header("Content-Type", "text/event-stream" if streamed else "application/json")
                self.send_header("Content-Length", str(len(text.encode())))
                self.end_headers()
                self.wfile.write(text.encode())

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.base_url = f"http://127.0.0.1:{self._server.server_port}/v1"

    def __enter__(self) -> ToolServer:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *failure: object) -> None:
        self._server.shutdown()
        self._server.server_close()


USAGE = {"prompt_tokens": 9, "completion_tokens": 12}


def whole(body: dict[str, Any]) -> dict[str, Any]:
    name = body["tools"][0]["function"]["name"]
    choices = []
    for index in range(body.get("n", 1)):
        call = {"id": f"call_{index}", "type": "function", "function": {"name": name, "arguments": "".join(PIECES)}}
        message = {"role": "assistant", "content": None, "tool_calls": [call]}
        choices.append({"index": index, "message": message, "finish_reason": "tool_calls"})
    return {"choices": choices, "usage": USAGE}


def events(body: dict[str, Any]) -> str:
    name = body["tools"][0]["function"]["name"]
    deltas: list[dict[str, Any]] = [
        {"index": 0, "id": "call_0", "type": "function", "function": {"name": name, "arguments": ""}},
        *({"index": 0, "function": {"arguments": piece}} for piece in PIECES),
    ]
    chunks: list[dict[str, Any]] = [
        {"choices": [{"index": 0, "delta": {"tool_calls": [delta]}, "finish_reason": None}]} for delta in deltas
    ]
    chunks.append({"choices": [{"index": 0, "delta": {}, "finish_reason": "tool_calls"}]})
    chunks.append({"choices": [], "usage": USAGE})
    return "".join(f"data: {json.dumps(chunk)}\n\n" for chunk in chunks) + "data: [DONE]\n\n"
