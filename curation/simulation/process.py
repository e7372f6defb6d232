"""Start, stop and look at a stand-in that serves a project. Where it listens stands in `.standin.json` of the project folder (0600), and
only the process that file names is ever stopped.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from curation.errors import UserError

STATE = ".standin.json"
WAIT = 30.0
"""Seconds to wait for the server to answer; reading the table takes two or three."""


class StandinError(UserError):
    """The offline stand-in cannot be started or stopped."""


@dataclass(frozen=True)
class Status:
    """Whether a stand-in serves the project, and where."""

    running: bool
    url: str | None = None
    pid: int | None = None
    log: str | None = None


def start(
    folder: Path,
    *,
    table: Path | None,
    seed: int,
    log: Path,
    port: int = 0,
    rates: Mapping[str, float] | None = None,
    detach: bool = True,
    options: Mapping[str, str] | None = None,
) -> str:
    """Start a stand-in and return its address; one that runs already is left as it is.

    Args:
        options: more flags of `python -m curation.simulation` by name ("latency", "error-429", …), for tests.

    Raises:
        StandinError: the port is in use, the table is missing, or the server does not answer.
    """
    now = status(folder)
    if now.running and now.url is not None:
        return now.url
    if log.resolve().is_relative_to(folder.resolve()):
        raise StandinError(str(log), "lies inside the project, where the truth about planted flaws must not be", "name a folder outside it")
    if table is not None and not table.is_file():
        raise StandinError(str(table), "there is no such table", "curate init writes it")
    log.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "curation.simulation", "--port", str(port), "--seed", str(seed)]
    command += ["--log", str(log.resolve()), "--state", str((folder / STATE).resolve())]
    command += ["--table", str(table.resolve())] if table else []
    command += ["--rates", ",".join(f"{name}={rate}" for name, rate in rates.items())] if rates else []
    for name, value in (options or {}).items():
        command += [f"--{name}", value] if value else [f"--{name}"]
    errors = log / "server.log"
    with errors.open("a", encoding="utf-8") as file:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=file, stderr=file, start_new_session=detach)
    return _wait(folder, process, errors)


def stop(folder: Path) -> bool:
    """Stop the stand-in of a project; False when none was running."""
    now = status(folder)
    if now.running and now.pid is not None:
        os.kill(now.pid, signal.SIGTERM)
        end = time.monotonic() + 10
        while time.monotonic() < end and _alive(now.pid):
            time.sleep(0.05)
        if _alive(now.pid):
            os.kill(now.pid, signal.SIGKILL)
    (folder / STATE).unlink(missing_ok=True)
    return now.running


def status(folder: Path) -> Status:
    """What `.standin.json` says, checked by asking the server itself."""
    path = folder / STATE
    try:
        state: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return Status(False)
    running = _alive(state["pid"]) and _answers(state["url"])
    return Status(running, state["url"], state["pid"], state.get("log"))


def _wait(folder: Path, process: subprocess.Popen[bytes], errors: Path) -> str:
    end = time.monotonic() + WAIT
    while time.monotonic() < end:
        if process.poll() is not None:
            lines = errors.read_text(encoding="utf-8").strip().splitlines()
            raise StandinError(
                "the offline stand-in", f"ended at once ({lines[-1] if lines else 'no output'})", "choose another port, or 0"
            )
        now = status(folder)
        if now.running and now.url is not None and now.pid == process.pid:
            return now.url
        time.sleep(0.1)
    process.kill()
    raise StandinError("the offline stand-in", f"did not answer within {WAIT:.0f} s", f"look at {errors}")


def _alive(pid: int) -> bool:
    try:
        reaped, _ = os.waitpid(pid, os.WNOHANG)
        return reaped == 0
    except ChildProcessError:
        pass
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/healthz", timeout=2) as response:
            return response.status == 200 and b"offline_standin" in response.read()
    except (urllib.error.URLError, OSError):
        return False
