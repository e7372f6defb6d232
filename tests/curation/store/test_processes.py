"""Work in forked processes: the same results in the same order, and an end with the parent and with an error."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from curation.errors import ProjectError
from curation.store import processes
from curation.store.database import HEARTBEAT
from curation.store.processes import count_processes, in_background, in_processes
from tests.conftest import ROOT

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="processes are forked on Linux only")


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[threading.Thread]]:
    """Hide the threads and libraries of tests before this one, which keep a stage from forking; returns what lists all threads."""
    every = threading.enumerate
    monkeypatch.setattr(threading, "enumerate", lambda: [threading.main_thread()])
    for name in processes.THREADED:
        monkeypatch.delitem(sys.modules, name, raising=False)
    return every


def test_results_come_in_order_from_forked_processes_that_see_what_is_loaded() -> None:
    loaded = {n: object() for n in range(50)}  # cannot be pickled with its identity
    addresses = {n: id(one) for n, one in loaded.items()}

    def work(n: int) -> tuple[int, int, int]:
        time.sleep(0.01 if n % 7 == 0 else 0)
        return n, id(loaded[n]), os.getpid()

    found = list(in_processes(work, range(50), processes=2, what="curate screen"))
    assert [(n, address) for n, address, _ in found] == list(addresses.items())
    assert os.getpid() not in {process for _, _, process in found}
    assert [one[:2] for one in in_processes(work, range(50), processes=1, what="curate screen")] == [one[:2] for one in found]


def test_a_killed_process_is_an_error_that_says_what_to_do() -> None:
    def work(n: int) -> int:
        if n == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        return n

    with pytest.raises(ProjectError, match=r"curate screen: lost a process .*run again"):
        list(in_processes(work, range(20), processes=2, what="curate screen"))


def test_work_beside_this_process_gives_its_result_its_error_or_what_to_do_when_it_was_killed(
    alone: Callable[[], list[threading.Thread]],
) -> None:
    before = alone()
    with in_background(processes.FEW, what="curate snapshot") as start:
        assert alone() == before, "no thread keeps others from forking"
        first, second, third = start(os.getpid), start(partial(int, "7")), start(partial(int, "x"))
        assert first() != os.getpid() and second() == 7
        with pytest.raises(ValueError, match="invalid literal"):
            third()
        assert start(partial(divmod, 7, 2))() == (3, 1)
        killed = start(partial(signal.raise_signal, signal.SIGKILL))
        with pytest.raises(ProjectError, match=r"curate snapshot: lost a process .*run again"):
            killed()
    with in_background(10, what="curate snapshot") as start:
        assert start(os.getpid)() == os.getpid()


def test_an_exception_of_the_work_is_raised_and_the_rest_is_not_done(tmp_path: Path) -> None:
    def work(n: int) -> int:
        if n == 0:
            raise ValueError("row 0")
        (tmp_path / str(n)).touch()
        return n

    with pytest.raises(ValueError, match="row 0"):
        list(in_processes(work, range(1000), processes=2, what="curate screen"))
    assert len(list(tmp_path.iterdir())) < 20


def test_forked_processes_end_when_their_parent_is_killed(tmp_path: Path) -> None:
    script = f"""
import os, time
from curation.store.processes import in_processes
def work(n):
    open({str(tmp_path)!r} + f"/{{os.getpid()}}", "w").close()
    time.sleep(600)
list(in_processes(work, range(4), processes=2, what="curate screen"))
"""
    parent = subprocess.Popen([sys.executable, "-c", script], cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)})
    until = time.monotonic() + 240
    while len(begun := list(tmp_path.iterdir())) < 2 and time.monotonic() < until:
        time.sleep(0.05)
    assert len(begun) == 2
    parent.kill()
    parent.wait()
    while any(_is_running(int(path.name)) for path in begun) and time.monotonic() < until:
        time.sleep(0.05)
    assert not [path.name for path in begun if _is_running(int(path.name))]


@pytest.mark.usefixtures("alone")
def test_nothing_is_forked_for_few_rows_on_one_core_or_beside_another_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2})
    assert count_processes(processes.FEW) == 3
    assert count_processes(processes.FEW - 1) == 1
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "openvino", sys)
        assert count_processes(processes.FEW) == 1
    beat = threading.Thread(name=HEARTBEAT)
    monkeypatch.setattr(threading, "enumerate", lambda: [threading.main_thread(), beat])
    assert count_processes(processes.FEW) == 3
    monkeypatch.setattr(threading, "enumerate", lambda: [threading.main_thread(), threading.Thread()])
    assert count_processes(processes.FEW) == 1
    monkeypatch.setattr(threading, "enumerate", lambda: [threading.main_thread()])
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {5})
    assert count_processes(processes.FEW) == 1


def _is_running(process: int) -> bool:
    """A killed child of a killed parent may stay as a zombie where nobody reaps it."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
