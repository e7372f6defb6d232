"""Run a command line in a process of its own and return what it printed or refused."""

from __future__ import annotations

import os
import re
import subprocess
import sys

from tests.conftest import ROOT

PREFIX = {"curation": "Error: ", "training": "train: ", "argilla_setup": "argilla-setup: "}


def run(*command: object, limit: int | None = None, **environ: str) -> subprocess.CompletedProcess[str]:
    """`python -m COMMAND` as a person runs it; `limit` is the largest file it may write, in KiB."""
    words = [sys.executable, "-m", *map(str, command)]
    if limit is not None:
        words = ["bash", "-c", f'ulimit -f {limit}; exec "$@"', "bash", *words]
    return subprocess.run(words, cwd=ROOT, env=os.environ | environ, capture_output=True, text=True, timeout=120)


def refusal(*command: object, limit: int | None = None, **environ: str) -> str:
    """The one line that a refused command says."""
    done = run(*command, limit=limit, **environ)
    assert done.returncode == 2, (done.returncode, done.stdout, done.stderr)
    assert done.stderr.count("\n") == 1 and done.stderr.endswith("\n"), done.stderr
    assert done.stderr.startswith(PREFIX[str(command[0])])
    assert re.search(r"\. Next: \S", done.stderr), done.stderr
    return done.stderr
