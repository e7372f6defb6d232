"""Run a project's own check, a Python function named in project.yaml, in a separate process.

One process serves many rows. A row that takes too long ends the process and fails, and the next row starts a new one. The limits protect
a run against a slow or memory-hungry check. They are no security boundary: the function is the project's code and runs as the user.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from curation.config.gates import Check, PythonCheck, TableCheck
from curation.errors import ProjectError

# Seconds that importing a check may take.
START_S = 60.0
# Consecutive rows that may end the process before the check is reported as broken.
DEAD_IN_A_ROW = 20
# Environment variables whose names contain one of these are not passed to the check.
_SECRETS = ("KEY", "TOKEN", "SECRET", "PASSWORD", "CREDENTIAL")


class CheckProcess:
    """The process of one check; started at the first row, to be closed after the last."""

    def __init__(self, check: PythonCheck, folder: Path) -> None:
        self._check, self._folder = check, folder.resolve()
        self._process: subprocess.Popen[bytes] | None = None
        self._unread = b""
        self._dead = 0

    def ask(self, *arguments: str) -> list[tuple[str, str]]:
        """Return (kind, evidence) for each failure; kinds are rejected, exception, timeout, memory and crashed.

        Raises:
            ProjectError: the function cannot be imported, or too many consecutive rows ended its process.
        """
        process = self._running()
        try:
            assert process.stdin is not None
            process.stdin.write(json.dumps(arguments).encode() + b"\n")
            process.stdin.flush()
            reply = self._read(process, self._check.seconds)
        except (TimeoutError, BrokenPipeError) as error:
            return [self._count_death(timed_out=isinstance(error, TimeoutError))]
        self._dead = 0
        return [(reply.get("kind", "rejected"), evidence) for evidence in reply["failed"]]

    def close(self) -> None:
        """End the process and its children."""
        if self._process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()
        self._process, self._unread = None, b""

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is not None:
            return self._process
        # -P keeps the working directory out of sys.path; the worker adds the project's folder itself.
        command = [sys.executable, "-P", str(Path(__file__).with_name("sandbox_worker.py")), self._check.callable]
        self._process = subprocess.Popen(
            [*command, str(self._check.memory_mb), str(self._folder)],
            cwd=self._folder,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={name: value for name, value in os.environ.items() if not any(word in name.upper() for word in _SECRETS)},
            # A session of its own, so that `close` also ends processes that the function started.
            start_new_session=True,
        )
        try:
            reply = self._read(self._process, START_S)
        except (TimeoutError, BrokenPipeError) as error:
            fact = f"took more than {START_S:.0f} seconds to import" if isinstance(error, TimeoutError) else self._end()
            reply = {"refused": fact}
        if "refused" in reply:
            self.close()
            what = f"check {self._check.name!r}: callable {self._check.callable}"
            raise ProjectError(what, reply["refused"], "correct the name under `checks:` in project.yaml, or the function, and run again")
        return self._process

    def _read(self, process: subprocess.Popen[bytes], seconds: float) -> dict[str, Any]:
        """Return the next line that the process writes."""
        assert process.stdout is not None
        until = time.monotonic() + seconds
        # os.read and not the buffered pipe: select does not see a line that a buffer holds.
        while b"\n" not in self._unread:
            ready, _, _ = select.select([process.stdout], [], [], max(0.0, until - time.monotonic()))
            if not ready:
                raise TimeoutError
            if not (more := os.read(process.stdout.fileno(), 65536)):
                raise BrokenPipeError
            self._unread += more
        line, self._unread = self._unread.split(b"\n", 1)
        return json.loads(line)  # type: ignore[no-any-return]

    def _count_death(self, *, timed_out: bool) -> tuple[str, str]:
        """Return the failure of a row that ended the process."""
        found = ("timeout", f"took more than {self._check.seconds:g} seconds") if timed_out else ("crashed", self._end())
        self.close()
        self._dead += 1
        if self._dead >= DEAD_IN_A_ROW:
            fact = f"ended its process on {self._dead} consecutive rows; on the last it {found[1]}"
            raise ProjectError(f"check {self._check.name!r}: callable {self._check.callable}", fact, "correct the function and run again")
        return found

    def _end(self) -> str:
        assert self._process is not None
        try:
            code = self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            return "closed its pipe"
        return f"was ended by signal {-code}" if code < 0 else f"ended its process with exit code {code}"


def sources_of(dotted: str, folder: Path) -> list[Path]:
    """Return the files whose change may change the result of a check.

    For a project's code: the module, or all modules of its package. For an installed package: the modules on the path to the function.
    """
    parts = dotted.split(".")
    top = parts[0]
    if (file := folder / f"{top}.py").is_file():
        return [file]
    if (folder / top).is_dir():
        return sorted((folder / top).rglob("*.py"))
    try:
        spec = importlib.util.find_spec(top)  # a top-level name is looked up without importing anything
    except (ImportError, ValueError):
        return []
    if spec is None:
        return []
    places = [Path(place) for place in spec.submodule_search_locations or ()]
    found = [Path(spec.origin)] if spec.origin and Path(spec.origin).is_file() else []
    for place in places:
        for length in range(2, len(parts)):
            inside = place.joinpath(*parts[1:length])
            found += [path for path in (inside.with_suffix(".py"), inside / "__init__.py") if path.is_file()]
    return found


def checks_digest(checks: Sequence[Check], folder: Path) -> str:
    """Return the sha256 (16 hex characters) of the checks and of everything they read: tables and the functions' sources."""
    whole = hashlib.sha256()
    for check in checks:
        whole.update(check.model_dump_json().encode())
        read = [folder / check.table] if isinstance(check, TableCheck) else []
        read += sources_of(check.callable, folder) if isinstance(check, PythonCheck) else []
        for path in read:
            whole.update(path.name.encode() + (hashlib.sha256(path.read_bytes()).digest() if path.is_file() else b"missing"))
    return whole.hexdigest()[:16]
