"""Run a command many times without starting Python each time: a process that has imported everything forks for each run.

    python -m tests.support.fuzz_commands

Reads one JSON list a line (module and arguments) and answers one JSON object a line: the exit code (None where it was killed for taking
too long), the seconds, and the end of what the command said.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any, NamedTuple

SECONDS = 120
"""Longer than this is a hang; the machine may be busy with other tests."""
MEMORY = 6 * 2**30


class Done(NamedTuple):
    """What came of a command."""

    code: int | None
    seconds: float
    said: str


class Commands:
    """The forking process, and a way to ask it."""

    def __init__(self) -> None:
        root = Path(__file__).parents[2]
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.fuzz_commands"], cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def run(self, module: str, *arguments: object) -> Done:
        """Run `python -m MODULE ARGUMENTS` in a fork."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps([module, *map(str, arguments)]) + "\n")
        self._process.stdin.flush()
        return Done(**json.loads(self._process.stdout.readline()))

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(timeout=120)


def main() -> None:
    """Import what commands use, then fork for each line."""
    import datasets  # noqa: F401
    import pyarrow.parquet  # noqa: F401
    import python_calamine  # noqa: F401
    import regex  # noqa: F401

    import argilla_setup.cli
    import argilla_setup.server.backup
    import curation.api
    import curation.cli
    import training.cli
    import training.config

    mains = {"curation": curation.cli.main, "training": training.cli.main, "argilla_setup": argilla_setup.cli.main}
    answers = os.fdopen(os.dup(1), "w")
    for line in sys.stdin:
        module, *arguments = json.loads(line)
        with tempfile.TemporaryFile() as said:
            start = time.monotonic()
            child = os.fork()
            if child == 0:
                _run(mains[module], module, arguments, said.fileno())
            code = _wait(child, start)
            said.seek(0)
            text = said.read()[-4000:].decode(errors="replace")
            answers.write(json.dumps({"code": code, "seconds": time.monotonic() - start, "said": text}) + "\n")
            answers.flush()


def _run(command: Any, module: str, arguments: list[str], output: int) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.dup2(output, 1)
    os.dup2(output, 2)
    sys.argv = [module, *arguments]
    code = 0
    try:
        command()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
    except BaseException:
        traceback.print_exc()
        code = 70
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _wait(child: int, start: float) -> int | None:
    while time.monotonic() - start < SECONDS:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return None


if __name__ == "__main__":
    main()
