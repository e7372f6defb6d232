"""The supervisor of one server: it starts Valkey, the web server and the worker, and restarts a child that ended.

The delay before a restart doubles with each crash, from 0.5 s to 30 s, and is reset once a child has run for a minute.
"""

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
from argilla_setup.server.settings import ServerSettings

ENGINE = Path(__file__).resolve().parents[1] / "engine" / "__main__.py"
MAX_DELAY = 30.0
STEADY = 60.0
"""Seconds after which a running child's earlier crashes no longer count."""
MAX_LOG = 10 * 2**20
INHERITED = frozenset(
    {"PATH", "HOME", "USER", "LOGNAME", "LANG", "TZ", "TMPDIR", "SSL_CERT_FILE", "SSL_CERT_DIR", "HF_HUB_OFFLINE", "FORWARDED_ALLOW_IPS"}
)
"""Variables of the user's environment that the server receives; LC_* too."""


@dataclass
class Child:
    """One supervised process."""

    name: str
    command: Sequence[str]
    process: subprocess.Popen[bytes] | None = None
    started: float = 0.0
    crashes: int = 0
    not_before: float = 0.0
    ready: Callable[[], bool] | None = None
    """Condition for the first start; the child starts without it after MAX_DELAY seconds."""


@dataclass
class Supervisor:
    """The processes of one server in the order in which they start; they stop in the reverse order."""

    home: Home
    port: int
    environment: Mapping[str, str]
    children: list[Child] = field(default_factory=list)
    stopping: bool = False
    notify: Callable[[str], None] = print
    began: float = field(default_factory=time.monotonic)

    def start(self) -> None:
        """Start each child that does not run and is due."""
        now = time.monotonic()
        changed = False
        for child in self.children:
            if child.process is not None and child.process.poll() is not None:
                code = child.process.returncode
                # `doctor --fix` ends the web server with SIGTERM; that is not a crash.
                child.crashes = (0 if now - child.started > STEADY else child.crashes) + (code != -signal.SIGTERM)
                delay = min(0.5 * 2 ** max(child.crashes - 1, 0), MAX_DELAY)
                self.notify(f"{datetime.now():%Y-%m-%d %H:%M:%S} {child.name} ended with {code}; restarting it in {delay:g} s")
                child.process, child.not_before = None, now + delay
            waits = child.ready is not None and not child.started and now - self.began < MAX_DELAY and not child.ready()
            if child.process is None and now >= child.not_before and not waits:
                with open_log(self.home, child.name) as log:
                    child.process = subprocess.Popen(
                        child.command,
                        env=dict(self.environment),
                        stdin=subprocess.DEVNULL,
                        stdout=log,
                        stderr=log,
                        cwd=self.home.folder,
                        umask=0o077,  # files that the server creates are private too
                    )
                child.started, changed = now, True
        if changed:
            running = {child.name: child.process.pid for child in self.children if child.process is not None}
            crashes = {child.name: child.crashes for child in self.children if child.crashes}
            write_processes(self.home, port=self.port, children=running, crashes=crashes)

    def run(self) -> None:
        """Supervise the children until SIGTERM, SIGINT or SIGHUP."""

        def stop_soon(*_: object) -> None:
            self.stopping = True

        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, stop_soon)
        try:
            while not self.stopping:
                self.start()
                time.sleep(0.2)
        finally:
            self.stop()

    def stop(self) -> None:
        """Stop the children."""
        # In reverse, so that the web server never runs without Valkey.
        for child in reversed(self.children):
            if child.process is None or child.process.poll() is not None:
                continue
            child.process.terminate()
            try:
                # Longer than the web server's own graceful shutdown of 5 s.
                child.process.wait(timeout=8)
            except subprocess.TimeoutExpired:
                child.process.kill()
                child.process.wait()
        self.home.processes_file.unlink(missing_ok=True)


def make_children(home: Home, *, python: Path, settings: ServerSettings, valkey: Path | None) -> list[Child]:
    """Return the children of a server: Valkey, the web server and the worker.

    Args:
        home: the state folder.
        python: interpreter of the server's environment.
        settings: host and port of the web server.
        valkey: the Valkey binary; None with an external Redis.

    Raises:
        UserError: the folder for Valkey's socket belongs to another user.
    """
    children = []
    if valkey is not None:
        folder = home.socket.parent
        folder.mkdir(mode=0o700, exist_ok=True)
        # The name can be guessed and /tmp is open to all users, so another user may have created this folder.
        if folder.is_symlink() or folder.stat().st_uid != os.getuid():
            raise UserError(f"{folder}", "belongs to another user", "set TMPDIR to a folder of your own")
        folder.chmod(0o700)
        # A rewritten process title would erase the environment by which `down` finds the process.
        # --port 0: no TCP port, only the socket.
        options = ["--port", "0", "--unixsocket", str(home.socket), "--unixsocketperm", "600", "--dir", str(home.folder / "valkey")]
        children.append(Child("valkey", [str(valkey), *options, "--save", "60", "1", "--daemonize", "no", "--set-proc-title", "no"]))
    children.append(Child("web", [str(python), str(ENGINE), "serve", settings.host, str(settings.port)]))
    # Both spend seconds on imports: the page answers sooner when the worker starts after the web server.
    children.append(Child("worker", [str(python), str(ENGINE), "worker"], ready=lambda: _accepts(settings.host, settings.port)))
    return children


def server_environment(home: Home, secrets: Secrets, settings: ServerSettings) -> dict[str, str]:
    """Return the environment variables of the server's processes.

    Secrets are passed here and never as arguments, which every user of the machine can read. Of the user's environment only INHERITED is
    passed on: Argilla does not need the API keys of model providers.

    Args:
        home: the state folder.
        secrets: the server's secrets.
        settings: addresses and external stores.
    """
    inherited = {name: value for name, value in os.environ.items() if name in INHERITED or name.startswith("LC_")}
    stores = {"ARGILLA_DATABASE_URL": settings.database_url, "ARGILLA_ELASTICSEARCH": settings.elasticsearch_url}
    origins = [f"http://127.0.0.1:{settings.port}", f"http://localhost:{settings.port}", *settings.origins]
    return (
        inherited
        | {name: url for name, url in stores.items() if url}
        | {
            # `find_processes` looks for these two.
            MARK: str(home.folder),
            IDENTITY: identify(home),
            "ARGILLA_HOME_PATH": str(home.folder),
            "ARGILLA_SEARCH_ENGINE": "elasticsearch" if settings.elasticsearch_url else "sqlite",
            "ARGILLA_REDIS_URL": settings.redis_url or f"unix://{home.socket}?db=0",
            # Without a fixed key argilla-server generates one per process, and every log-in ends at a restart.
            "ARGILLA_AUTH_SECRET_KEY": secrets.auth_secret,
            # The default allows every origin.
            "ARGILLA_CORS_ORIGINS": json.dumps(origins),
            # Seconds that a writer waits for another one; the default of 5 is too short during a push.
            "ARGILLA_DATABASE_SQLITE_TIMEOUT": "30",
            "ARGILLA_ENABLE_SHARE_YOUR_PROGRESS": "false",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            # Logs are read while the process runs, and the user's own site-packages must not be imported.
            "PYTHONUNBUFFERED": "1",
            "PYTHONNOUSERSITE": "1",
            # Rich tracebacks of argilla-server's command line print local variables, secrets among them.
            "_TYPER_STANDARD_TRACEBACK": "1",
        }
    )


def open_log(home: Home, name: str) -> IO[bytes]:
    """Open a child's log for appending; a log above MAX_LOG bytes is renamed to NAME.log.1 first."""
    path = home.logs_folder / f"{name}.log"
    if path.exists() and path.stat().st_size > MAX_LOG:
        path.replace(path.with_suffix(".log.1"))
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600), "ab")


def _accepts(host: str, port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection((host, port), timeout=1):
        return True
    return False
