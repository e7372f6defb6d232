"""The server's own Python environment, built once from the shipped lock and shared by every server of this user.

argilla-server pins releases that would break ours, so the two never share an environment; they talk HTTP.
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
from typing import IO

from argilla_setup.errors import UserError

LOCK = Path(__file__).resolve().parents[1] / "server.lock"
SUPPORTED = ((3, 11), (3, 12), (3, 13))
NEEDED_MB = 900


def cache_folder() -> Path:
    """Where built environments are kept: $SEEDCORN_CACHE_DIR, or the user's cache folder."""
    given = os.environ.get("SEEDCORN_CACHE_DIR")
    if given:
        return Path(given).expanduser().resolve()
    from platformdirs import user_cache_path

    return user_cache_path("seedcorn")


def lock_digest() -> str:
    """Digest of the shipped lock; an environment, a database and a running server each remember the one they were made with."""
    return hashlib.sha256(LOCK.read_bytes()).hexdigest()[:12]


def environment_folder() -> Path:
    """Where the environment of this lock and this Python is, or will be."""
    return cache_folder() / "argilla-server" / f"{lock_digest()}-py{sys.version_info[0]}{sys.version_info[1]}"


def find_older_environments() -> list[Path]:
    """Environments of earlier locks, which nothing removes by itself: another release of ours may still use one."""
    current = environment_folder()
    return sorted(ready.parent for ready in current.parent.glob("*/.ready") if ready.parent != current)


def ensure_environment(say: Callable[[str], None]) -> Path:
    """The environment's Python; built on first use, which takes about 40 seconds and 620 MB.

    The folder carries the lock's digest and the Python version, so a new lock builds anew and an old one is left alone.
    """
    _check_python()
    folder = environment_folder()
    ready = folder / ".ready"
    if not ready.exists():
        with _only_one(folder.with_suffix(".lock")):
            if not ready.exists():
                _check_space(folder.parent)
                say("Building the server's environment (once, about 40 seconds)")
                _build(folder)
                ready.touch()
    return folder / "bin" / "python"


def _build(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    _call([sys.executable, "-m", "venv", str(folder)], "Python's venv module does not work", "on Debian: apt-get install python3-venv")
    pip = [str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-input"]
    _call(
        [*pip, "--require-hashes", "--no-deps", "-r", str(LOCK)],
        "the server's packages could not be installed",
        "see that the package index can be reached, then run the command again",
    )


def _call(command: list[str], what: str, next_step: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = [line for line in (done.stderr or done.stdout).strip().splitlines() if line.strip()]
        raise UserError(what, lines[-1][:300] if lines else f"exit {done.returncode}", next_step)


def _check_python() -> None:
    if sys.version_info[:2] not in SUPPORTED:
        raise UserError(
            "Python", f"is {sys.version.split()[0]}; the Argilla server runs on 3.11, 3.12 and 3.13", "install Seedcorn under one of these"
        )


def _check_space(folder: Path) -> None:
    free = shutil.disk_usage(folder).free // 2**20
    if free < NEEDED_MB:
        raise UserError(f"{folder}", f"has {free} MB free; the server's environment needs {NEEDED_MB}", "set SEEDCORN_CACHE_DIR elsewhere")


@contextmanager
def _only_one(path: Path) -> Iterator[IO[str]]:
    """Two commands at once must not build into one folder; the second waits and finds it built."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("w")
    except OSError as error:
        raise UserError(f"{path.parent}", f"cannot be written ({error.strerror})", "set SEEDCORN_CACHE_DIR elsewhere") from error
    with file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield file
