"""Starts Valkey, the web server and the worker, and starts again what falls, waiting longer each time it falls soon."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import IO

from argilla_setup.errors import UserError
from argilla_setup.server.home import Home, Secrets, identify
from argilla_setup.server.processes import IDENTITY, MARK, write_processes
from argilla_setup.server.settings import Choices

ENGINE = Path(__file__).resolve().parents[1] / "engine" / "__main__.py"
LONGEST_WAIT = 30.0
STEADY = 60.0
"""A child that ran this long is forgiven its earlier falls."""

LARGEST_LOG = 10 * 2**20
PASSED_ON = frozenset(
    {"PATH", "HOME", "USER", "LOGNAME", "LANG", "TZ", "TMPDIR", "SSL_CERT_FILE", "SSL_CERT_DIR", "HF_HUB_OFFLINE", "FORWARDED_ALLOW_IPS"}
)


@dataclass
class Child:
    """One process to keep up."""

    name: str
    command: Sequence[str]
    process: subprocess.Popen[bytes] | None = None
    started: float = 0.0
    falls: int = 0
    not_before: float = 0.0
    after: Callable[[], bool] | None = None
    """At the first start: wait for this, LONGEST_WAIT at most."""


@dataclass
class Supervisor:
    """The processes of one server, in the order in which they start; they end in the reverse order."""

    home: Home
    port: int
    environment: Mapping[str, str]
    children: list[Child] = field(default_factory=list)
    stopping: bool = False
    say: Callable[[str], None] = print
    began: float = field(default_factory=time.monotonic)

    def start(self) -> None:
        """Start each child that is not running and may be."""
        now = time.monotonic()
        changed = False
        for child in self.children:
            if child.process is not None and child.process.poll() is not None:
                self._note_fall(child, now)
            if child.process is None and now >= child.not_before and not self._must_wait(child, now):
                child.process, child.started, changed = self._spawn(child), now, True
        if changed:
            running = {child.name: child.process.pid for child in self.children if child.process is not None}
            falls = {child.name: child.falls for child in self.children if child.falls}
            write_processes(self.home, port=self.port, children=running, falls=falls)

    def run(self) -> None:
        """Keep the children up until SIGTERM or SIGINT."""
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self._stop_soon)
        try:
            while not self.stopping:
                self.start()
                time.sleep(0.2)
        finally:
            self.stop()

    def stop(self) -> None:
        """End the children, the last started first, so that the web server never meets a dead Valkey."""
        for child in reversed(self.children):
            if child.process is None or child.process.poll() is not None:
                continue
            child.process.terminate()
            try:
                child.process.wait(timeout=8)
            except subprocess.TimeoutExpired:
                child.process.kill()
                child.process.wait()
        self.home.processes_file.unlink(missing_ok=True)

    def _must_wait(self, child: Child, now: float) -> bool:
        return child.after is not None and not child.started and now - self.began < LONGEST_WAIT and not child.after()

    def _stop_soon(self, *_: object) -> None:
        self.stopping = True

    def _note_fall(self, child: Child, now: float) -> None:
        assert child.process is not None
        asked = child.process.returncode == -signal.SIGTERM  # as `doctor --fix` does; no fault of the child's
        child.falls = (0 if now - child.started > STEADY else child.falls) + (not asked)
        wait = min(0.5 * 2 ** max(child.falls - 1, 0), LONGEST_WAIT)
        self.say(f"{datetime.now():%Y-%m-%d %H:%M:%S} {child.name} ended with {child.process.returncode}; starting it again in {wait:g} s")
        child.process, child.not_before = None, now + wait

    def _spawn(self, child: Child) -> subprocess.Popen[bytes]:
        with open_log(self.home, child.name) as log:
            return subprocess.Popen(
                child.command,
                env=dict(self.environment),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.home.folder,
                umask=0o077,
            )


def make_children(home: Home, *, python: Path, choices: Choices, valkey: Path | None) -> list[Child]:
    """Valkey (unless an external Redis is named), the web server, the worker."""
    children = []
    if valkey is not None:
        # A rewritten process title would wipe the mark by which `down` finds the process.
        _make_socket_folder(home.socket.parent)
        options = ["--port", "0", "--unixsocket", str(home.socket), "--unixsocketperm", "600", "--dir", str(home.folder / "valkey")]
        children.append(Child("valkey", [str(valkey), *options, "--save", "60", "1", "--daemonize", "no", "--set-proc-title", "no"]))
    children.append(Child("web", [str(python), str(ENGINE), "serve", choices.host, str(choices.port)]))
    # Both import for seconds: the page is there sooner when the worker lets the web server go first.
    children.append(Child("worker", [str(python), str(ENGINE), "worker"], after=lambda: _accepts(choices.host, choices.port)))
    return children


def server_environment(home: Home, secrets: Secrets, choices: Choices) -> dict[str, str]:
    """What the server is told. Secrets travel here and never in a command line, which every user of the machine can read.

    Little is passed on: a teacher's key in the user's environment is none of Argilla's business.
    """
    kept = {name: value for name, value in os.environ.items() if name in PASSED_ON or name.startswith("LC_")}
    stores = {"ARGILLA_DATABASE_URL": choices.database_url, "ARGILLA_ELASTICSEARCH": choices.elasticsearch_url}
    origins = [f"http://127.0.0.1:{choices.port}", f"http://localhost:{choices.port}", *choices.origins]
    return (
        kept
        | {name: url for name, url in stores.items() if url}
        | {
            MARK: str(home.folder),
            IDENTITY: identify(home),
            "ARGILLA_HOME_PATH": str(home.folder),
            "ARGILLA_SEARCH_ENGINE": "elasticsearch" if choices.elasticsearch_url else "sqlite",
            "ARGILLA_REDIS_URL": choices.redis_url or f"unix://{home.socket}?db=0",
            "ARGILLA_AUTH_SECRET_KEY": secrets.auth_secret,
            "ARGILLA_CORS_ORIGINS": json.dumps(origins),
            "ARGILLA_DATABASE_SQLITE_TIMEOUT": "30",
            "ARGILLA_ENABLE_SHARE_YOUR_PROGRESS": "false",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "PYTHONUNBUFFERED": "1",
            "PYTHONNOUSERSITE": "1",
            # Tracebacks of its command line would print local variables, secrets among them.
            "_TYPER_STANDARD_TRACEBACK": "1",
        }
    )


def _accepts(host: str, port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection((host, port), timeout=1):
        return True
    return False


def _make_socket_folder(folder: Path) -> None:
    # Its name can be guessed and its parent is open to all, so another user's folder of that name must not be trusted.
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.is_symlink() or folder.stat().st_uid != os.getuid():
        raise UserError(f"{folder}", "belongs to another user", "set TMPDIR to a folder of your own")
    folder.chmod(0o700)


def open_log(home: Home, name: str) -> IO[bytes]:
    """A child's log, opened at its end; a large one is set aside as NAME.log.1 first."""
    path = home.logs_folder / f"{name}.log"
    if path.exists() and path.stat().st_size > LARGEST_LOG:
        path.replace(path.with_suffix(".log.1"))
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600), "ab")
