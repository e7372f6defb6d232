"""Work over ranges of rows in forked processes, which see everything that this process has loaded."""

from __future__ import annotations

import gc
import os
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar, cast

from curation.errors import ProjectError
from curation.store.database import HEARTBEAT

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

Part = TypeVar("Part")
Result = TypeVar("Result")

FEW = 5_000
"""Rows below which starting processes costs more than it saves."""

THREADED = {"openvino", "torch"}
"""Libraries whose own threads `threading` does not show."""

_work: Callable[[Any], Any]
"""The work of a forked process."""


def count_processes(rows: int) -> int:
    """Return the number of processes that work on so many rows: one for each core that this process may use.

    One where a fork does not pay, where the system is not Linux, and where another thread may hold a lock at the fork: one of Python, or
    of a library that embeds texts. The thread that shows that a stage is alive is none of these: it holds nothing that a child uses.
    """
    if rows < FEW or sys.platform != "linux" or threading.current_thread() is not threading.main_thread():
        return 1
    if any(thread.name != HEARTBEAT for thread in threading.enumerate() if thread is not threading.main_thread()):
        return 1
    if THREADED & sys.modules.keys():
        return 1
    return min(len(os.sched_getaffinity(0)), 8)


def in_processes(
    work: Callable[[Part], Result], parts: Iterable[Part], *, processes: int, what: str, ahead: int | None = None
) -> Iterator[Result]:
    """Yield the result of each part in order.

    Args:
        work: pure function of a part; it must use neither the database nor a model.
        parts: values that can be pickled, as the results must be.
        processes: number of processes; with 1 no process is forked.
        what: the command, for the error.
        ahead: parts that are read before the first result is taken; two for each process when None.

    Raises:
        ProjectError: a process was killed.
    """
    if processes == 1:
        yield from map(work, parts)
        return
    import multiprocessing
    from concurrent.futures import Future, ProcessPoolExecutor
    from concurrent.futures.process import BrokenProcessPool

    # By fork, `work` and all it holds reach the process without a copy.
    pool = ProcessPoolExecutor(processes, multiprocessing.get_context("fork"), initializer=_begin, initargs=(work,))
    waiting = deque[Future[Result]]()
    try:
        for part in parts:
            waiting.append(pool.submit(_run, part))
            if len(waiting) > (2 * processes if ahead is None else ahead):
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    except BrokenProcessPool as error:
        raise _lost(what) from error
    finally:
        pool.shutdown(cancel_futures=True)


def handed_out(parts: Sequence[Part], first: int, meanwhile: Callable[[], None]) -> Iterator[Part]:
    """Yield the parts for `in_processes`, and call a function here while the first of them, or all, are worked on."""
    yield from parts[:first]
    meanwhile()
    yield from parts[first:]


@contextmanager
def in_background(rows: int, *, what: str) -> Iterator[Callable[[Callable[[], Result]], Callable[[], Result]]]:
    """Yield a function that starts work in another process, and returns a function that waits for the result.

    The process is forked at once, while this one is small. Where a fork does not pay, the work is done when its result is wanted.

    Args:
        rows: about as many as the work is on.
        what: the command, for the error.

    Raises:
        ProjectError: the process was killed.
    """
    if count_processes(rows) == 1:
        yield lambda work: work
        return
    import multiprocessing

    context = multiprocessing.get_context("fork")
    # No pool of processes: its threads would keep the stages from forking.
    own, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(theirs, own), daemon=True)
    process.start()
    theirs.close()

    def start(work: Callable[[], Result]) -> Callable[[], Result]:
        own.send(work)

        def result() -> Result:
            try:
                value, error = own.recv()
            except EOFError as ended:
                raise _lost(what) from ended
            if error is not None:
                raise error
            return cast(Result, value)

        return result

    try:
        yield start
    finally:
        own.close()
        process.kill()
        process.join()


def _serve(pipe: Connection, other: Connection) -> None:
    """Do what the pipe brings until it is closed."""
    other.close()
    _begin(None)
    while True:
        try:
            work = pipe.recv()
        except EOFError:
            return
        try:
            pipe.send((work(), None))
        except Exception as error:
            pipe.send((None, error))


def _lost(what: str) -> ProjectError:
    fact = "lost a process that it had started (killed, or out of memory), and stopped"
    return ProjectError(what, fact, "run again; with less memory, taskset -c 0 makes it work in one process")


def _begin(work: Callable[[Any], Any] | None) -> None:
    """Prepare a forked process: one thread, no collection of the parent's objects, and an end when the parent ends."""
    global _work
    if work is not None:
        _work = work
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Work with compiled loops has loaded them before the fork.
    if (loops := sys.modules.get("curation.dedup.arrow_text")) is not None:
        loops.use_threads(1)
    # Collecting would write to every object of the parent, and so copy its memory.
    gc.freeze()
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    import multiprocessing

    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _run(part: Any) -> Any:
    return _work(part)
