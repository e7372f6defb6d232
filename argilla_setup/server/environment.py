"""The server's own Python environment, built once from the shipped lock file and shared by all servers of this user.

argilla-server pins releases that conflict with ours (pydantic, httpx, typer, fastapi), so it gets a separate
environment and process, and we talk HTTP to it.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from argilla_setup.errors import UserError

LOCK = Path(__file__).resolve().parents[1] / "server.lock"
SUPPORTED = ((3, 11), (3, 12), (3, 13))
NEEDED_MB = 900
"""Disk space for the environment (620 MB) and pip's temporary files."""


def cache_folder() -> Path:
    """Return the folder for built environments: $SEEDCORN_CACHE_DIR, or the user's cache folder."""
    given = os.environ.get("SEEDCORN_CACHE_DIR")
    if given:
        return Path(given).expanduser().resolve()
    from platformdirs import user_cache_path

    return user_cache_path("seedcorn")


def lock_digest() -> str:
    """Return the digest of the shipped lock file, which identifies an environment, a prepared database and a running server."""
    return hashlib.sha256(LOCK.read_bytes()).hexdigest()[:12]


def environment_folder() -> Path:
    """Return the folder of the environment for this lock file and this Python version, whether it exists or not."""
    return cache_folder() / "argilla-server" / f"{lock_digest()}-py{sys.version_info[0]}{sys.version_info[1]}"


def find_older_environments() -> list[Path]:
    """Return environments of earlier lock files. They are never removed automatically: another installed release may use one."""
    current = environment_folder()
    return sorted(ready.parent for ready in current.parent.glob("*/.ready") if ready.parent != current)


def ensure_environment(notify: Callable[[str], None]) -> Path:
    """Return the environment's Python interpreter; the first call builds it, which takes about 40 seconds and 620 MB.

    Raises:
        UserError: the Python version is not supported, the disk is full, or the packages cannot be installed.
    """
    if sys.version_info[:2] not in SUPPORTED:
        fact = f"is {sys.version.split()[0]}; the Argilla server runs on 3.11, 3.12 and 3.13"
        raise UserError("Python", fact, "install Seedcorn under one of these")
    folder = environment_folder()
    ready = folder / ".ready"
    if not ready.exists():
        # Two commands must not build into one folder; the second waits and then finds it built.
        with _exclusive(folder.with_suffix(".lock")):
            if not ready.exists():
                free = shutil.disk_usage(folder.parent).free // 2**20
                if free < NEEDED_MB:
                    fact = f"has {free} MB free; the server's environment needs {NEEDED_MB}"
                    raise UserError(f"{folder.parent}", fact, "set SEEDCORN_CACHE_DIR to a folder on another disk")
                notify("Building the server's environment (once, about 40 seconds)")
                # Left by a build that was interrupted; a complete one has the file `.ready`.
                shutil.rmtree(folder, ignore_errors=True)
                venv = [sys.executable, "-m", "venv", str(folder)]
                _call(venv, "Python's venv module does not work", "on Debian: apt-get install python3-venv")
                pip = [str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-input"]
                # --no-deps: the lock file overrides pins of argilla-server that pip would refuse to resolve.
                _call(
                    [*pip, "--require-hashes", "--no-deps", "-r", str(LOCK)],
                    "the server's packages could not be installed",
                    "check that the package index can be reached, then run the command again",
                )
                ready.touch()
    return folder / "bin" / "python"


def _call(command: list[str], what: str, next_step: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = [line for line in (done.stderr or done.stdout).strip().splitlines() if line.strip()]
        raise UserError(what, lines[-1][:300] if lines else f"exit {done.returncode}", next_step)


@contextmanager
def _exclusive(path: Path) -> Iterator[None]:
    """Hold an exclusive lock on a file for the duration of a `with` block."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("w")
    except OSError as error:
        fact = f"cannot be written ({error.strerror})"
        raise UserError(f"{path.parent}", fact, "set SEEDCORN_CACHE_DIR to a folder that you can write") from error
    with file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
