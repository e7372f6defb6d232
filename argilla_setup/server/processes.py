"""Which processes belong to a server, and how they end.

Every child carries the state folder in its environment, so that even those of a killed supervisor are found.
"""

from __future__ import annotations

import json
import os
import time
from typing import Any

import psutil

from argilla_setup.server.environment import lock_digest
from argilla_setup.server.home import Home, write_private

MARK = "SEEDCORN_ARGILLA_HOME"


def write_processes(home: Home, *, port: int, children: dict[str, int], falls: dict[str, int] | None = None) -> None:
    """Note the supervisor (this process), its children and how often each has fallen, and the lock they run from."""
    body = {"supervisor": os.getpid(), "started": psutil.Process().create_time(), "port": port, "children": children}
    body |= {"falls": falls or {}, "lock": lock_digest()}
    write_private(home.processes_file, json.dumps(body, indent=2) + "\n")


def read_processes(home: Home) -> dict[str, Any] | None:
    """What runs now; None when the supervisor is gone, whatever the file says."""
    try:
        body = dict(json.loads(home.processes_file.read_text()))
        supervisor = psutil.Process(body["supervisor"])
        alive = abs(supervisor.create_time() - body["started"]) < 1 and supervisor.status() != psutil.STATUS_ZOMBIE
    except (OSError, ValueError, KeyError, psutil.Error):
        return None
    return body if alive else None


def find_processes(home: Home) -> list[psutil.Process]:
    """Every process of this server, other than the one that asks."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.pid != os.getpid() and process.environ().get(MARK) == str(home.folder):
                found.append(process)
        except (psutil.Error, OSError):
            continue
    return found


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
