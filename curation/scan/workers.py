"""Run tasks one after the other in this process, or on the workers of a Ray cluster.

Tasks are Ray core tasks over files, not operators of Ray Data: an operator's shuffle lives in the object store and ends with the driver, so
a scan that was killed would begin again. A task that ended has left its file.
"""

from __future__ import annotations

import logging
import os
import resource
import socket
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

from curation.errors import ProjectError, UserError
from curation.scan.storage import AGAIN

Notify = Callable[[str, int, int], None]
"""Called with (step, done tasks, all tasks)."""

RETRIES = 3
"""Times that the task of a worker that died is given to another."""


@dataclass(frozen=True)
class Cost:
    """Processor time and memory of some tasks."""

    tasks: int = 0
    cpu_s: float = 0.0
    peak_mb: float = 0.0
    """Largest resident memory of a process that ran one of them, shared libraries included."""

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.tasks + other.tasks, self.cpu_s + other.cpu_s, max(self.peak_mb, other.peak_mb))


@dataclass(frozen=True)
class Done:
    """Result of a task."""

    value: Any
    cost: Cost
    problem: tuple[str, str, str] | None = None
    """Thing, problem and step of a `UserError`: an exception would arrive wrapped in one of Ray's."""


class Workers(Protocol):
    """Runs tasks in this process or on a Ray cluster."""

    def run(self, step: str, function: Callable[..., Any], shared: Any, tasks: Sequence[tuple[Any, ...]]) -> tuple[list[Any], Cost]:
        """Call function(shared, *task) for each task and return the results in order.

        Args:
            step: name of the step, for progress and errors.
            function: a function of a module, which workers import.
            shared: first argument of every call; sent to each worker once.
            tasks: further arguments.
        """


@dataclass(frozen=True)
class InProcess:
    """Runs tasks one after the other."""

    notify: Notify | None = None

    def run(self, step: str, function: Callable[..., Any], shared: Any, tasks: Sequence[tuple[Any, ...]]) -> tuple[list[Any], Cost]:
        """Call the function in this process."""
        values, cost = list[Any](), Cost()
        for number, task in enumerate(tasks):
            done = _measured(function, shared, *task)
            values.append(_value_of(done))
            cost += done.cost
            if self.notify:
                self.notify(step, number + 1, len(tasks))
        return values, cost


@dataclass(frozen=True)
class OnRay:
    """Runs tasks on the cluster that this process is connected to (`connected`)."""

    notify: Notify | None = None

    def run(self, step: str, function: Callable[..., Any], shared: Any, tasks: Sequence[tuple[Any, ...]]) -> tuple[list[Any], Cost]:
        """Call the function on the workers; the task of a worker that died is given to another, up to `RETRIES` times."""
        import ray

        if not tasks:
            return [], Cost()
        remote, given = ray.remote(_measured).options(max_retries=RETRIES, num_cpus=1), ray.put(shared)
        waiting = {remote.remote(function, given, *task): number for number, task in enumerate(tasks)}
        values, cost = [None] * len(tasks), Cost()
        try:
            while waiting:
                ready, _ = ray.wait(list(waiting), num_returns=1, timeout=None)
                for reference in ready:
                    number = waiting.pop(reference)
                    done = ray.get(reference)
                    values[number] = _value_of(done)
                    cost += done.cost
                if self.notify:
                    self.notify(step, len(tasks) - len(waiting), len(tasks))
        except ray.exceptions.RayTaskError as error:
            raise error.cause from error
        except ray.exceptions.RayError as error:
            fact = f"a worker died in step {step} ({type(error).__name__})"
            raise ProjectError(
                "--ray", fact, f"{AGAIN}; if it repeats, add memory, or scan into another target with a lower --rows-per-task"
            ) from error
        finally:
            for reference in waiting:
                ray.cancel(reference, force=False)
        return values, cost


@contextmanager
def connected(address: str, notify: Notify | None = None) -> Iterator[OnRay]:
    """Connect to a Ray cluster for a while; a connection that exists is used and kept.

    Args:
        address: of the cluster; "auto" for the one that runs on this machine, "local" to start one here.
        notify: called as tasks end.

    Raises:
        ProjectError: Ray is not installed, or no cluster answers.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # Ray would report its use to its makers
    try:
        import ray
    except ImportError as error:
        raise ProjectError("--ray", "needs the package ray", "pip install 'seedcorn[ray]'") from error
    if ray.is_initialized():
        yield OnRay(notify)
        return
    refused = ProjectError(f"--ray {address}", "no cluster answers", "ray start --head, then --ray auto")
    if not _is_open(address):
        raise refused
    try:
        ray.init(address=address, log_to_driver=False, include_dashboard=False if address == "local" else None, logging_level=logging.ERROR)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise refused from error
    try:
        yield OnRay(notify)
    finally:
        ray.shutdown()


def _is_open(address: str) -> bool:
    """Return False if the address names a port that nobody listens on: Ray itself gives up after some minutes only."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if not colon or not port.isdigit():
        return True
    try:
        socket.create_connection((host, int(port)), timeout=10).close()
    except OSError:
        return False
    return True


def _measured(function: Callable[..., Any], shared: Any, *arguments: Any) -> Done:
    began = time.process_time()
    value, problem = None, None
    try:
        value = function(shared, *arguments)
    except UserError as error:
        problem = (error.what, error.fact, error.next_step)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024**2 if sys.platform == "darwin" else 1024)
    return Done(value, Cost(1, time.process_time() - began, peak), problem)


def _value_of(done: Done) -> Any:
    if done.problem is not None:
        raise ProjectError(*done.problem)
    return done.value
