"""The logs of a server's processes as one stream: the last lines, or every new line with the name of its process."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

from argilla_setup.errors import UserError
from argilla_setup.server.home import Home

NAME_WIDTH = 10
POLL_SECONDS = 0.2
MAX_TAIL = 2**20
"""Bytes at the end of a log that are read for its last lines."""
PROCESSES = ("supervisor", "valkey", "web", "worker")


class Follower:
    """A thread that passes every new line of the logs on, for the duration of a `with` block.

    Args:
        home: the state folder.
        notify: receives each line behind its process's name.
        names: processes whose logs are followed.
    """

    def __init__(self, home: Home, *, notify: Callable[[str], None], names: tuple[str, ...] = ("valkey", "web", "worker")) -> None:
        self.notify = notify
        self.paths = [_path(home, name) for name in names]
        self.places = {path: (path.stat().st_ino, path.stat().st_size) if path.exists() else (0, 0) for path in self.paths}
        self.over = threading.Event()
        self.thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Follower:
        self.thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.over.set()
        self.thread.join()
        self.poll()  # the last lines, which are often the reason for the end

    def poll(self) -> None:
        """Pass on what was added since the last poll."""
        for path in filter(Path.exists, self.paths):
            inode, offset = self.places[path]
            with path.open("rb") as file:
                current = os.fstat(file.fileno()).st_ino
                # A large log is renamed and a new one begins: another inode is read from its start.
                file.seek(offset if current == inode else 0)
                offset, body = file.tell(), file.read()
            # An incomplete last line is left for the next poll.
            complete = body[: body.rfind(b"\n") + 1]
            self.places[path] = (current, offset + len(complete))
            for line in complete.decode("utf-8", "replace").splitlines():
                self.notify(_labelled(path, line))

    def _run(self) -> None:
        while not self.over.wait(POLL_SECONDS):
            self.poll()


def show_logs(home: Home, *, process: str | None, lines: int, follow: bool, notify: Callable[[str], None]) -> None:
    """Print the last lines of each process's log.

    Args:
        home: the state folder.
        process: name of one process; None for all.
        lines: number of lines per process.
        follow: keep printing new lines until Ctrl-C.
        notify: receives each line.

    Raises:
        UserError: there are no logs, or none of that process.
    """
    existing = {path.stem for path in home.logs_folder.glob("*.log")}
    if process is not None and process not in existing | set(PROCESSES):
        raise UserError(
            "--process", f"is {process}; there are logs of {', '.join(sorted(existing)) or 'nothing yet'}", "argilla-setup logs"
        )
    names = (process,) if process is not None else tuple(name for name in PROCESSES if name in existing)
    if not names:
        raise UserError(f"{home.folder}", "has no logs yet", f"argilla-setup up --home {home.folder}")
    follower = Follower(home, notify=notify, names=names)
    for name in names:
        for line in read_tail(_path(home, name), lines):
            notify(_labelled(_path(home, name), line))
    if not follow:
        return
    try:
        while True:
            follower.poll()
            time.sleep(POLL_SECONDS)
    except KeyboardInterrupt:
        return


def read_tail(path: Path, lines: int) -> list[str]:
    """Return the last lines of a log."""
    if not path.exists() or lines <= 0:
        return []
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - MAX_TAIL))
        return file.read().decode("utf-8", "replace").splitlines()[-lines:]


def last_line(home: Home, name: str) -> str:
    """Return the last line that a process logged, for an error message."""
    lines = [line for line in read_tail(_path(home, name), 50) if line.strip()]
    return lines[-1].strip()[:300] if lines else "its log is empty"


def _labelled(path: Path, line: str) -> str:
    return f"{path.stem:<{NAME_WIDTH}} | {line}"


def _path(home: Home, name: str) -> Path:
    return home.logs_folder / f"{name}.log"
