"""Tiny projects for the training tests. Each is built once for all test processes, because a training takes seconds."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support import zygote
from tests.support.training_samples import build_project, train_both


def build_once(factory: pytest.TempPathFactory, name: str, build: Callable[[Path], object]) -> Path:
    """Return a folder that the first process builds and the others of this session wait for."""
    home = factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        home = home.parent  # shared by the workers of one session
    folder = home / f"training-{name}"
    with (home / f"training-{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "complete").exists():
            shutil.rmtree(folder, ignore_errors=True)
            build(folder / "project")
            (folder / "complete").touch()
    return folder / "project"


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project without runs; tests copy it before they change anything."""
    zygote.preload("training")
    return build_once(tmp_path_factory, "built", build_project)


@pytest.fixture(scope="session")
def trained(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A project with a finished run of each method; tests copy it before they change anything, for other processes copy it too."""
    project = build_once(tmp_path_factory, "trained", lambda folder: train_both(Path(shutil.copytree(built, folder))))
    before = names_in(project)
    yield project
    assert names_in(project) == before, "a test wrote into the project that all tests copy: it takes the fixture `project`"


def names_in(folder: Path) -> set[str]:
    """The files that a test could leave behind; locks and logs belong to any command that reads a run."""
    return {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file() and p.suffix not in {".lock", ".txt"}}


@pytest.fixture
def untrained(built: Path, tmp_path: Path) -> Path:
    """A copy of the project without runs."""
    return Path(shutil.copytree(built, tmp_path / "untrained"))


@pytest.fixture
def project(trained: Path, tmp_path: Path) -> Path:
    """A copy of the project with finished runs."""
    return Path(shutil.copytree(trained, tmp_path / "project"))
