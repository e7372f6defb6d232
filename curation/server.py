"""The HTTP service of `curate serve`: it pulls annotations at an interval and reports a project's state.

GET /healthz   200 while the last pull worked and is recent, else 503; open; the response holds nothing about the data
GET /status    `curate status --json` and the last pull; needs `Authorization: Bearer TOKEN`

TOKEN is in PROJECT/serve.token, created on first start with mode 0600.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import secrets
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from argilla_setup.command_line import echo
from argilla_setup.shown import mask_values, visible
from curation.errors import ProjectError, UserError, command
from curation.snapshot.write import replace_file

TOKEN, LEAST_TOKEN = "serve.token", 32


@dataclass
class PollStatus:
    """Result of the last pull, and when it ended (Unix time; 0 before the first)."""

    at: float = 0.0
    answers: int = 0
    error: str = "no pull has ended yet"


def serve_project(folder: Path, *, host: str, port: int, every: float) -> None:
    """Serve a project until stopped.

    Args:
        folder: the project's folder.
        host: address to listen on.
        port: port to listen on.
        every: seconds between two pulls.

    Raises:
        ProjectError: no such project, or the port is taken.
    """
    import socket

    import uvicorn

    from curation.config.project import load_project

    load_project(folder)
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise ProjectError(f"port {port} on {host}", f"cannot be used ({error.strerror})", "choose another with --port") from error
    token = keep_token(folder)
    status = f"http://{host}:{port}/status"
    echo(f"Pulling annotations every {every:g} s. Health: http://{host}:{port}/healthz", err=True)
    echo(f'Status: curl --header "Authorization: Bearer $(cat {command(folder / TOKEN)})" {status}', err=True)
    uvicorn.run(make_app(folder, every=every, token=token), host=host, port=port, log_level="warning")


def keep_token(folder: Path) -> str:
    """Return the token in FOLDER/serve.token; create it, or replace one that is short or readable by others.

    Raises:
        ProjectError: the file cannot be written.
    """
    file = folder / TOKEN
    try:
        if file.is_file() and not file.is_symlink() and not file.stat().st_mode & 0o077:
            found = file.read_text(encoding="utf-8", errors="replace").strip()
            if len(found) >= LEAST_TOKEN and found.isascii():
                return found
        token = secrets.token_urlsafe(32)
        replace_file(file, f"{token}\n".encode(), mode=0o600)
    except OSError as error:
        raise ProjectError(
            str(file), f"cannot be written ({error.strerror})", "check the permissions of the folder and run again"
        ) from error
    return token


def make_app(folder: Path, *, every: float, token: str) -> Any:
    """Return the ASGI application, which pulls from startup to shutdown.

    Args:
        folder: the project's folder.
        every: seconds between two pulls.
        token: bearer token that /status requires.
    """
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import JSONResponse
    from starlette.routing import Route

    poll = PollStatus()

    async def healthz(_: Request) -> JSONResponse:
        age = time.time() - poll.at if poll.at else None
        # Three intervals without a pull mean that the loop hangs; 30 s leave time for one slow pull at short intervals.
        healthy = not poll.error and age is not None and age < max(3 * every, 30)
        body = {"healthy": healthy, "seconds_since_pull": None if age is None else round(age, 1)}
        return JSONResponse(body, status_code=200 if healthy else 503)

    async def status(request: Request) -> JSONResponse:
        from curation.stages.inspect import status as read_status

        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not hmac.compare_digest(given.strip().encode(), token.encode()):
            error = {"error": "a token is required. Send `Authorization: Bearer TOKEN` with the token in the project's serve.token"}
            return JSONResponse(error, status_code=401, headers={"WWW-Authenticate": "Bearer"})
        try:
            values = (await asyncio.to_thread(read_status, folder)).as_values()
        except UserError as error:
            return JSONResponse({"error": str(error)}, status_code=500)
        pull = {"answers": poll.answers, "error": poll.error or None}
        return JSONResponse(mask_values({**values, "last_pull": pull}), headers={"Cache-Control": "no-store"})

    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        task = asyncio.create_task(_pull_repeatedly(folder, poll, every))
        yield
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task

    return Starlette(routes=[Route("/healthz", healthz), Route("/status", status)], lifespan=lifespan)


async def _pull_repeatedly(folder: Path, poll: PollStatus, every: float) -> None:
    from curation.stages.pull import pull

    while True:
        try:
            result = await asyncio.to_thread(pull, folder)
            poll.at, poll.answers, problem = time.time(), result.rows_in, ""
        except UserError as error:  # Argilla is down or not set up yet: report it on /status and retry
            problem = str(error)
        except Exception as error:  # a malformed response must not end the polling
            problem = f"{type(error).__name__}: {error}"
        if problem and problem != poll.error:
            echo(f"The pull failed: {visible(problem, lines=False)}", err=True)
        poll.error = problem
        await asyncio.sleep(every)
