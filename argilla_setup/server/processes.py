"""The processes of a server: how they are found and stopped.

Every child carries the path and the identity of the state folder in its environment, so that the children of a killed supervisor are found
too. A copy of the folder has another identity: a command on the copy does not reach the original's processes.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NotRequired, TypedDict, cast

import psutil

from argilla_setup.server.environment import lock_digest
from argilla_setup.server.home import Home, identify, write_private

MARK = "SEEDCORN_ARGILLA_HOME"
"""Environment variable of every child: the path of the state folder."""
IDENTITY = "SEEDCORN_ARGILLA_HOME_ID"
"""Environment variable of every child: the identity of the state folder."""


class ProcessState(TypedDict):
    """The content of run/processes.json."""

    supervisor: int
    """Process id."""
    started: float
    """Creation time of the supervisor, which distinguishes it from a later process with the same id."""
    port: int
    children: dict[str, int]
    """Process ids by name."""
    falls: dict[str, int]
    """Crashes by name of the child, without children that never crashed."""
    lock: str
    """Digest of the lock file that the running environment was built from."""
    home: str
    identity: NotRequired[str]
    """Absent in files of releases that identified a folder by its path only."""


@dataclass(frozen=True)
class ServerConflict:
    """A running server that is confused with this folder's because the folder was moved, copied or replaced."""

    kind: Literal["moved", "copied", "replaced"]
    folder: str
    """moved: the folder's path when its server started. copied, replaced: the current path of the server's folder."""
    pid: int

    @property
    def fact(self) -> str:
        """The problem in words."""
        if self.kind == "moved":
            return f"was moved from {self.folder} while its server was running"
        where = f"is a copy of {self.folder}, whose" if self.kind == "copied" else f"replaced a folder that is now {self.folder}, whose"
        return f"{where} server is running (process {self.pid})"

    def next_step(self, home: Home) -> str:
        """Return the command that resolves the conflict."""
        if self.kind == "moved":
            return f"argilla-setup down --home {home.folder}, then up again"
        return f"to stop that server, argilla-setup down --home {self.folder}"

    def sentence(self, home: Home) -> str:
        """Return the problem and the next step as one line."""
        return f"{home.folder}: {self.fact}. Next: {self.next_step(home)}"


def write_processes(home: Home, *, port: int, children: dict[str, int], crashes: dict[str, int] | None = None) -> None:
    """Record this process as the supervisor of a server.

    Args:
        home: the state folder.
        port: TCP port of the web server.
        children: process ids by name.
        crashes: number of crashes by name.
    """
    body: ProcessState = {
        "supervisor": os.getpid(),
        "started": psutil.Process().create_time(),
        "port": port,
        "children": children,
        "falls": crashes or {},
        "lock": lock_digest(),
        "home": str(home.folder),
        "identity": identify(home),
    }
    write_private(home.processes_file, json.dumps(body, indent=2) + "\n")


def read_processes(home: Home) -> ProcessState | None:
    """Return the running processes; None when the supervisor is gone or supervises another folder's server."""
    body = _read_alive(home)
    if body is None:
        return None
    # An older release wrote no identity; its processes carry only the path.
    if "identity" not in body:
        return body if find_processes(home) else None
    return body if body["identity"] == identify(home) else None


def find_processes(home: Home) -> list[psutil.Process]:
    """Return every process of this server other than the calling one."""
    identity = identify(home)
    return [process for process, folder, known in _marked_processes() if (known == identity if known else folder == str(home.folder))]


def find_conflict(home: Home) -> ServerConflict | None:
    """Return the running server that could be confused with this folder's, or None."""
    body, identity, here = _read_alive(home), identify(home), str(home.folder)
    if body is not None and "identity" in body:
        if body["identity"] != identity:
            # The children work in their folder, and a working folder follows a rename.
            current = next(filter(None, map(_working_folder, body["children"].values())), None) or body["home"]
            return ServerConflict("copied", current, body["supervisor"])
        if body["home"] != here:
            return ServerConflict("moved", body["home"], body["supervisor"])
    for process, folder, known in _marked_processes():
        if folder == here and known and known != identity:
            return ServerConflict("replaced", _working_folder(process.pid) or here, process.pid)
    return None


def stop_processes(home: Home, *, patience: float = 15.0) -> int:
    """Stop the supervisor, then every remaining process.

    Args:
        home: the state folder.
        patience: seconds that the supervisor may take to stop its children.

    Returns:
        The number of processes that were running.
    """
    body = read_processes(home)
    count = len(find_processes(home))
    if body is not None:
        _end([psutil.Process(body["supervisor"])], "terminate", seconds=patience)
    stubborn = _end(find_processes(home), "terminate", seconds=5)
    _end(stubborn, "kill", seconds=5)
    home.processes_file.unlink(missing_ok=True)
    return count


def _read_alive(home: Home) -> ProcessState | None:
    """Return the content of processes.json if the supervisor that it names is alive."""
    try:
        body = dict(json.loads(home.processes_file.read_text()))
        supervisor = psutil.Process(body["supervisor"])
        # Process ids are reused, so the creation time must match too.
        alive = abs(supervisor.create_time() - body["started"]) < 1 and supervisor.status() != psutil.STATUS_ZOMBIE
    except (OSError, ValueError, KeyError, psutil.Error):
        return None
    return cast(ProcessState, body) if alive else None


def _marked_processes() -> list[tuple[psutil.Process, str, str]]:
    """Return every other process of any server with its folder and identity; the identity is empty for older releases."""
    found = []
    for process in psutil.process_iter():
        try:
            environment = process.environ() if process.pid != os.getpid() else {}
        except (psutil.Error, OSError):
            continue  # ended meanwhile, or of another user
        if MARK in environment:
            found.append((process, environment[MARK], environment.get(IDENTITY, "")))
    return found


def _working_folder(pid: int) -> str | None:
    try:
        folder = psutil.Process(pid).cwd()
    except (psutil.Error, OSError):
        return None
    return folder if Path(folder).is_dir() else None


def _end(processes: list[psutil.Process], action: Literal["terminate", "kill"], *, seconds: float) -> list[psutil.Process]:
    """Signal the processes, wait for them, and return those that still run."""

    def is_alive(process: psutil.Process) -> bool:
        # A zombie has ended; its parent, which may be busy, removes it. `psutil.wait_procs` would wait for that.
        try:
            return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
        except psutil.NoSuchProcess:
            return False

    left = signalled = [process for process in processes if is_alive(process)]
    for process in left:
        with contextlib.suppress(psutil.NoSuchProcess):
            getattr(process, action)()
    until = time.monotonic() + seconds
    while left and time.monotonic() < until:
        time.sleep(0.05)
        left = [process for process in left if is_alive(process)]
    psutil.wait_procs(signalled, timeout=0)  # removes the zombies whose parent is this process
    return left
