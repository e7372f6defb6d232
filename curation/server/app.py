"""The application of `curate serve`: the page, its API, and the loop that fetches annotations.

GET /          the data lead's page
/api/…         what the page uses (`curation.server.api`); `/api/docs.json` describes it
GET /healthz   200 while the last pull worked and is recent, else 503; open; the response holds nothing about the data
GET /status    `curate status --json` and the last pull; needs `Authorization: Bearer TOKEN` with the token in PROJECT/serve.token
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

from fastapi import FastAPI, HTTPException, Request, Response
from fastapi.responses import FileResponse, JSONResponse
from starlette.middleware.trustedhost import TrustedHostMiddleware

from argilla_setup.command_line import echo
from argilla_setup.shown import mask_values, visible
from curation.errors import ProjectError, UserError, command
from curation.server.access import TOKEN_FILES, Access, load_access
from curation.server.api import PollStatus, Service, router
from curation.server.jobs import Jobs
from curation.server.live_rows import LiveRows

GRACE_S = 2
"""Seconds that requests have to end when the service is stopped."""
STATIC = Path(__file__).parent / "static"
PAGES = ("/", "/rows", "/rows/{identity}", "/cuts", "/review")
"""Addresses at which the page is served; app.js shows what belongs to the address."""
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "form-action 'none'; base-uri 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
}
"""Headers of every response. No inline script or style, and no other host."""


def serve_project(folder: Path, *, host: str, port: int, every: float, names: Sequence[str] = (), browse: bool = False) -> None:
    """Serve a project until stopped.

    Args:
        folder: the project's folder.
        host: address to listen on.
        port: port to listen on.
        every: seconds between two pulls.
        names: host names, besides the loopback ones, under which people reach the service.
        browse: open the page in a browser.

    Raises:
        ProjectError: no such project, or the port is taken.
    """
    import socket

    import uvicorn

    from curation.config.project import load_project

    load_project(folder)
    listening = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
        listening.listen()  # from here on a browser that opens the link waits for the service to start
    except OSError as error:
        raise ProjectError(f"port {port} on {host}", f"cannot be used ({error.strerror})", "choose another with --port") from error
    access = load_access(folder)
    address = f"http://{f'[{host}]' if ':' in host else host}:{listening.getsockname()[1]}"
    link = f"{address}/#code={access.make_code()}"
    echo(f"The page, with a link that works once: {link}", err=True)
    echo(f"Pulling annotations every {every:g} s. Health: {address}/healthz", err=True)
    token = command(folder / TOKEN_FILES["owner"])
    echo(f'Status: curl --header "Authorization: Bearer $(cat {token})" {address}/status', err=True)
    if browse:
        import webbrowser

        webbrowser.open(link)
    app = make_app(folder, every=every, access=access, hosts=(host, *names))
    # An open page listens for events without end, and the end of the service must not wait for it.
    uvicorn.Server(uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=GRACE_S)).run(sockets=[listening])


def make_app(folder: Path, *, every: float, access: Access, hosts: tuple[str, ...] = ()) -> Any:
    """Return the ASGI application, which pulls from startup to shutdown.

    Args:
        folder: the project's folder.
        every: seconds between two pulls.
        access: tokens and sessions.
        hosts: host names, besides the loopback ones, under which the service is reached.
    """
    poll, jobs = PollStatus(), Jobs(folder)

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        task = asyncio.create_task(_pull_repeatedly(folder, poll, every))
        yield
        await asyncio.to_thread(jobs.close)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task

    app = FastAPI(title="Seedcorn curation service", lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url="/api/docs.json")

    @app.middleware("http")
    async def add_headers(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
        response = await call_next(request)
        response.headers.update(HEADERS)
        if not request.url.path.startswith("/static/"):
            response.headers["Cache-Control"] = "no-store"
        return response

    # A page of another site may point its own host name to this machine; it must not reach the service under that name.
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=["127.0.0.1", "localhost", "[::1]", *hosts])

    @app.exception_handler(UserError)
    async def explain(_: Request, error: UserError) -> JSONResponse:
        return JSONResponse({"detail": str(error), "what": error.what, "fact": error.fact, "next": error.next_step}, status_code=400)

    _add_health(app, folder, every=every, access=access, poll=poll)

    files = {file.name for file in STATIC.iterdir()}

    @app.get("/static/{name}", include_in_schema=False)
    async def static(name: str) -> FileResponse:
        if name not in files:
            raise HTTPException(404)
        return FileResponse(STATIC / name, headers={"Cache-Control": "no-cache"})

    app.state.service = Service(folder, access, LiveRows(folder), poll, jobs)
    app.include_router(router)

    async def page() -> FileResponse:
        return FileResponse(STATIC / "index.html", media_type="text/html")

    for path in PAGES:
        app.add_api_route(path, page, include_in_schema=False)
    return app


def _add_health(app: FastAPI, folder: Path, *, every: float, access: Access, poll: PollStatus) -> None:
    """Add /healthz, which is open, and /status, for monitors."""

    @app.get("/healthz", include_in_schema=False)
    async def healthz() -> JSONResponse:
        age = time.time() - poll.at if poll.at else None
        # Three intervals without a pull mean that the loop hangs; 30 s leave time for one slow pull at short intervals.
        healthy = not poll.error and age is not None and age < max(3 * every, 30)
        body = {"healthy": healthy, "seconds_since_pull": None if age is None else round(age, 1)}
        return JSONResponse(body, status_code=200 if healthy else 503)

    @app.get("/status", include_in_schema=False)
    async def status(request: Request) -> JSONResponse:
        from curation.stages.inspect import status as read_status

        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or access.role_of(given.strip()) is None:
            error = {"error": "a token is required. Send `Authorization: Bearer TOKEN` with the token in the project's serve.token"}
            return JSONResponse(error, status_code=401, headers={"WWW-Authenticate": "Bearer"})
        try:
            values = (await asyncio.to_thread(read_status, folder)).as_values()
        except UserError as error:
            return JSONResponse({"error": str(error)}, status_code=500)
        pull = {"answers": poll.answers, "error": poll.error or None}
        return JSONResponse(mask_values({**values, "last_pull": pull}))


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
