"""`transformers serve` with an API key, which it has no option for: `python -m training.serve_transformers FOLDER --host H --port P`.

Requests need the header `Authorization: Bearer KEY`, with the key in SEEDCORN_SERVE_KEY. Only /health is open. The routes that load other
models or unload this one are closed.
"""

from __future__ import annotations

import argparse
import hmac
import os
from typing import Any

from training.serve import KEY_FOR_SERVER

CLOSED = ("/load_model", "/reset")
"""Routes of transformers' server that change what it serves."""


class RequireKey:
    """ASGI middleware that answers 401 to a request without the key."""

    def __init__(self, app: Any, *, key: str) -> None:
        self.app = app
        self.expected = f"Bearer {key}".encode()

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        from starlette.responses import JSONResponse

        if scope["type"] == "http" and scope["path"] != "/health":
            given = next((value for name, value in scope["headers"] if name == b"authorization"), b"")
            if not hmac.compare_digest(given, self.expected):
                await JSONResponse({"error": {"message": "invalid API key", "type": "invalid_request_error"}}, 401)(scope, receive, send)
                return
            if scope["path"] in CLOSED:
                await JSONResponse({"error": {"message": "not available", "type": "invalid_request_error"}}, 404)(scope, receive, send)
                return
        await self.app(scope, receive, send)


def main() -> None:
    """Serve a merged model until a signal."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    given = parser.parse_args()
    key = os.environ.pop(KEY_FOR_SERVER, "")
    if not key:
        raise SystemExit(f"{KEY_FOR_SERVER} is not set")
    from transformers.cli.serve import Serve
    from transformers.cli.serving import server

    build = server.build_server

    def build_locked(*arguments: Any, **more: Any) -> Any:
        app = build(*arguments, **more)
        app.add_middleware(RequireKey, key=key)
        return app

    server.build_server = build_locked  # `Serve` builds its application with it and has no hook of its own
    Serve(force_model=given.folder, host=given.host, port=given.port)


if __name__ == "__main__":
    main()
