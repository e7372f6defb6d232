"""One readable log out of the logs of a server's processes: the last lines, or all that is added from now on."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType

from argilla_setup.errors import UserError
from argilla_setup.server.home import Home

WIDTH = 10
"""Of the process's name before each line."""
PAUSE = 0.2
LONGEST_TAIL = 2**20
PROCESSES = ("supervisor", "valkey", "web", "worker")


class Follower:
    """Says every line that is added to the logs while the `with` block lasts, each behind its process's name."""

    def __init__(self, home: Home, *, say: Callable[[str], None], names: tuple[str, ...] = ("valkey", "web", "worker")) -> None:
        self.say = say
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
        self.look()

    def look(self) -> None:
        """Say what was added since the last look."""
        for path in self.paths:
            for line in self._new_lines(path):
                self.say(label(path, line))

    def _run(self) -> None:
        while not self.over.wait(PAUSE):
            self.look()

    def _new_lines(self, path: Path) -> Iterator[str]:
        if not path.exists():
            return
        file_number, offset = self.places[path]
        with path.open("rb") as file:
            now = os.fstat(file.fileno()).st_ino
            file.seek(offset if now == file_number else 0)  # a large log is set aside and a new one begun
            offset, body = file.tell(), file.read()
        whole = body[: body.rfind(b"\n") + 1]
        self.places[path] = (now, offset + len(whole))
        yield from whole.decode("utf-8", "replace").splitlines()


def show_logs(home: Home, *, process: str | None, lines: int, follow: bool, say: Callable[[str], None]) -> None:
    """Say the last lines of each process's log, or of one; then, asked to, whatever is added until Ctrl-C."""
    held = {path.stem for path in home.logs_folder.glob("*.log")}
    if process is not None and process not in held | set(PROCESSES):
        raise UserError("--process", f"is {process}; there are logs of {', '.join(sorted(held)) or 'nothing yet'}", "argilla-setup logs")
    names = (process,) if process is not None else tuple(name for name in PROCESSES if name in held)
    if not names:
        raise UserError(f"{home.folder}", "has no logs yet", f"argilla-setup up --home {home.folder}")
    follower = Follower(home, say=say, names=names)
    for name in names:
        for line in read_tail(_path(home, name), lines):
            say(label(_path(home, name), line))
    if not follow:
        return
    try:
        while True:
            follower.look()
            time.sleep(PAUSE)
    except KeyboardInterrupt:
        return


def read_tail(path: Path, lines: int) -> list[str]:
    """The last lines of a log."""
    if not path.exists() or lines <= 0:
        return []
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - LONGEST_TAIL))
        return file.read().decode("utf-8", "replace").splitlines()[-lines:]


def last_line(home: Home, name: str) -> str:
    """The last thing a process said, for an error's sentence."""
    lines = [line for line in read_tail(_path(home, name), 50) if line.strip()]
    return lines[-1].strip()[:300] if lines else "its log is empty"


def label(path: Path, line: str) -> str:
    """A line behind the name of the process that said it."""
    return f"{path.stem:<{WIDTH}} | {line}"


def _path(home: Home, name: str) -> Path:
    return home.logs_folder / f"{name}.log"
