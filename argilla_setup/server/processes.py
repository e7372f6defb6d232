"""Which processes belong to a server, and how they end.

Every child carries the state folder and its identity in its environment, so that even those of a killed supervisor are found. A copy of
the folder has another identity: nothing that is done to the copy reaches the original's processes.
"""

from __future__ import annotations

import json
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import psutil

from argilla_setup.server.environment import lock_digest
from argilla_setup.server.home import Home, identify, write_private

MARK = "SEEDCORN_ARGILLA_HOME"
IDENTITY = "SEEDCORN_ARGILLA_HOME_ID"


@dataclass(frozen=True)
class Elsewhere:
    """A running server that this folder names and that is not, or not quite, this folder's."""

    kind: Literal["moved", "copied", "replaced"]
    folder: str
    """moved: where this folder was when its server started. copied, replaced: where the server's folder is now."""
    pid: int

    @property
    def fact(self) -> str:
        """What happened."""
        if self.kind == "moved":
            return f"was moved from {self.folder} while its server was running"
        where = f"is a copy of {self.folder}, whose" if self.kind == "copied" else f"replaced a folder that is now {self.folder}, whose"
        return f"{where} server is running (process {self.pid})"

    def next_step(self, home: Home) -> str:
        """Return the command that ends the confusion."""
        if self.kind == "moved":
            return f"argilla-setup down --home {home.folder}, then up again"
        return f"to stop that server, argilla-setup down --home {self.folder}"

    def sentence(self, home: Home) -> str:
        """Return both as one line."""
        return f"{home.folder}: {self.fact}. Next: {self.next_step(home)}"


def write_processes(home: Home, *, port: int, children: dict[str, int], falls: dict[str, int] | None = None) -> None:
    """Note the supervisor (this process), its children and how often each has fallen, the lock they run from, and whose they are."""
    body = {"supervisor": os.getpid(), "started": psutil.Process().create_time(), "port": port, "children": children}
    body |= {"falls": falls or {}, "lock": lock_digest(), "home": str(home.folder), "identity": identify(home)}
    write_private(home.processes_file, json.dumps(body, indent=2) + "\n")


def read_processes(home: Home) -> dict[str, Any] | None:
    """Return what runs now; None when the supervisor is gone or keeps another folder's server, whatever the file says."""
    body = _read_alive(home)
    if body is None:
        return None
    if "identity" not in body:  # written by a release that knew folders by their path only
        return body if find_processes(home) else None
    return body if body["identity"] == identify(home) else None


def find_processes(home: Home) -> list[psutil.Process]:
    """Return every process of this server, other than the one that asks."""
    identity = identify(home)
    return [process for process, folder, known in _marked() if (known == identity if known else folder == str(home.folder))]


def find_elsewhere(home: Home) -> Elsewhere | None:
    """Return the running server with which this folder could be confused; None where all is as it should be."""
    body, identity, here = _read_alive(home), identify(home), str(home.folder)
    if body is not None and "identity" in body:
        if body["identity"] != identity:
            return Elsewhere("copied", _current_folder(body), body["supervisor"])
        if body["home"] != here:
            return Elsewhere("moved", body["home"], body["supervisor"])
    for process, folder, known in _marked():
        if folder == here and known and known != identity:
            return Elsewhere("replaced", _working_folder(process.pid) or here, process.pid)
    return None


def stop_processes(home: Home, *, patience: float = 15.0) -> int:
    """Ask the supervisor to end, then end whatever is left; the number of processes that were running."""
    body = read_processes(home)
    count = len(find_processes(home))
    if body is not None:
        _wait_for_end(psutil.Process(body["supervisor"]), patience)
    left = [process for process in find_processes(home) if process.status() != psutil.STATUS_ZOMBIE]
    for process in left:
        _send(process, "terminate")
    _, stubborn = psutil.wait_procs(left, timeout=5)
    for process in stubborn:
        _send(process, "kill")
    psutil.wait_procs(stubborn, timeout=5)
    home.processes_file.unlink(missing_ok=True)
    return count


def _read_alive(home: Home) -> dict[str, Any] | None:
    """Return what the file says, where the supervisor that it names is alive."""
    try:
        body = dict(json.loads(home.processes_file.read_text()))
        supervisor = psutil.Process(body["supervisor"])
        alive = abs(supervisor.create_time() - body["started"]) < 1 and supervisor.status() != psutil.STATUS_ZOMBIE
    except (OSError, ValueError, KeyError, psutil.Error):
        return None
    return body if alive else None


def _marked() -> list[tuple[psutil.Process, str, str]]:
    """Return every other process of any server, with the folder and the identity that it carries; an older release's has no identity."""
    found = []
    for process in psutil.process_iter():
        try:
            environment = process.environ() if process.pid != os.getpid() else {}
        except (psutil.Error, OSError):
            continue
        if MARK in environment:
            found.append((process, environment[MARK], environment.get(IDENTITY, "")))
    return found


def _current_folder(body: dict[str, Any]) -> str:
    """Return where a server's folder is now: its children work in it, and a working folder follows a rename."""
    return next(filter(None, map(_working_folder, body["children"].values())), None) or str(body["home"])


def _working_folder(pid: int) -> str | None:
    try:
        folder = psutil.Process(pid).cwd()
    except (psutil.Error, OSError):
        return None
    return folder if Path(folder).is_dir() else None


def _wait_for_end(process: psutil.Process, patience: float) -> None:
    _send(process, "terminate")
    until = time.monotonic() + patience
    while time.monotonic() < until and process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
        time.sleep(0.05)


def _send(process: psutil.Process, action: str) -> None:
    try:
        getattr(process, action)()
    except psutil.NoSuchProcess:
        return
