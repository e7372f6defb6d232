"""The HTTP door: brings answers in as people give them, and says how it is. No logic of its own.

GET /healthz   200 while the last look at Argilla worked and is recent, else 503
GET /status    what `curate status` says
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from argilla_setup.command_line import echo
from curation.errors import ProjectError, UserError


@dataclass
class Pulse:
    """The last look at Argilla."""

    at: float = 0.0
    answers: int = 0
    error: str = "has not looked yet"


def serve_project(folder: Path, *, host: str, port: int, every: float) -> None:
    """Serve until stopped.

    Raises:
        ProjectError: no such project, or the port is taken.
    """
    import uvicorn

    from curation.project import load_project

    load_project(folder)
    _check_port(host, port)
    echo(f"Looking for answers every {every:g} s; http://{host}:{port}/healthz", err=True)
    uvicorn.run(make_app(folder, every=every), host=host, port=port, log_level="warning")


def make_app(folder: Path, *, every: float) -> Any:
    """The ASGI application; polls Argilla from its start to its end."""
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import JSONResponse
    from starlette.routing import Route

    pulse = Pulse()

    async def healthz(_: Request) -> JSONResponse:
        fresh = pulse.at and time.time() - pulse.at < max(3 * every, 30)
        healthy = not pulse.error and bool(fresh)
        body = {"healthy": healthy, "seconds_since_pull": round(time.time() - pulse.at, 1) if pulse.at else None,
                "answers": pulse.answers, "error": pulse.error or None}  # fmt: skip
        return JSONResponse(body, status_code=200 if healthy else 503)

    async def status(_: Request) -> JSONResponse:
        from curation import pipeline

        summary = await asyncio.to_thread(pipeline.status, folder)
        return JSONResponse(summary.as_values())

    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        task = asyncio.create_task(_poll(folder, pulse, every))
        yield
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task

    return Starlette(routes=[Route("/healthz", healthz), Route("/status", status)], lifespan=lifespan)


async def _poll(folder: Path, pulse: Pulse, every: float) -> None:
    from curation import pipeline

    while True:
        try:
            summary = await asyncio.to_thread(pipeline.pull, folder)
            pulse.at, pulse.answers, pulse.error = time.time(), summary.rows_in, ""
        except UserError as error:  # Argilla is down or not set up yet: said on /healthz, tried again
            pulse.error = str(error)
        except Exception as error:  # an Argilla that answers nonsense must not end the polling: said on /healthz, tried again
            pulse.error = f"{type(error).__name__}: {error}"
        await asyncio.sleep(every)


def _check_port(host: str, port: int) -> None:
    import socket

    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise ProjectError(f"port {port} on {host}", f"cannot be used ({error.strerror})", "choose another with --port") from error
