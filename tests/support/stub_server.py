"""A program that stands in for a model server: takes vLLM's arguments, answers `/health`, and dies when told to.

    python stub_server.py --mode MODE --model M --served-model-name N --host H --port P ...

Modes: `good`; `crash` (says why and ends while it starts); `mute` (never answers). It ends with code 7 when a question
holds `die`, and, with `--once FILE`, only where the file is not there yet.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


def main() -> None:
    parser = argparse.ArgumentParser()
    for name in ("mode", "model", "served-model-name", "host", "port", "once"):
        parser.add_argument(f"--{name}")
    given, rest = parser.parse_known_args()
    print(f"started {os.getpid()} for {given.model} with {rest} and {os.environ.get('STUB')}", flush=True)
    if given.mode == "crash":
        print("(Engine pid=1) ERROR 11-25 04:00:00 [core.py:1] ValueError: there is no such model", flush=True)
        print("RuntimeError: Engine core initialization failed. See root cause above.", flush=True)
        sys.exit(3)
    if given.mode == "mute":
        time.sleep(60)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: object) -> None:
            pass

        def do_GET(self) -> None:
            self.reply({} if self.path == "/health" else None)

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            asked = body["messages"][-1]["content"]
            if "die" in asked and not (given.once and Path(given.once).exists()):
                if given.once:
                    Path(given.once).touch()
                print("MemoryError: it was too much", flush=True)
                os._exit(7)
            if body["model"] != given.served_model_name:
                self.reply(None)
                return
            message = {"message": {"content": f"A: {os.getpid()}"}, "finish_reason": "stop"}
            self.reply({"choices": [message], "usage": {"prompt_tokens": 3, "completion_tokens": 2}})

        def reply(self, data: object) -> None:
            text = json.dumps(data or {"error": {"message": "no such thing"}}).encode()
            self.send_response(404 if data is None else 200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

    ThreadingHTTPServer((given.host, int(given.port)), Handler).serve_forever()


if __name__ == "__main__":
    main()
