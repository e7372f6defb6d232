"""Stages that the page started, one after the other, each as a process of its own.

A stage stores its work as it goes and continues where it stopped, so a job may be cancelled, or the service killed, at any moment: the same
stage, started again, loses nothing and buys nothing twice. The list of jobs itself is kept in memory only.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
import threading
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from argilla_setup.shown import mask_secrets
from curation.errors import ProjectError

Stage = Literal["generate", "score", "dedup", "screen", "decide", "push", "pull", "describe", "report"]
State = Literal["waiting", "running", "done", "failed", "cancelled"]
MOST_JOBS = 50
"""Jobs that are remembered; the oldest ended ones are forgotten."""
MOST_WAITING = 20
STOP_S = 15.0
"""Seconds that a cancelled stage has to end in order before it is killed."""
LONGEST = 4_000
"""Characters of a stage's output that are kept, from its end."""


@dataclass(frozen=True)
class Job:
    """One run of a stage."""

    id: str
    stage: Stage
    state: State
    created: str
    """ISO 8601 in UTC, as are the other times."""
    started: str | None = None
    ended: str | None = None
    output: str = ""
    """The end of what the stage printed."""


class Jobs:
    """The queue of a project. One stage runs at a time.

    Args:
        folder: of the project.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._jobs: dict[str, Job] = {}
        self._keys: dict[str, str] = {}
        self._change = threading.Condition()
        self._process: subprocess.Popen[str] | None = None
        self._closed = False
        self._worker: threading.Thread | None = None

    def listed(self) -> list[Job]:
        """Return the jobs, the newest first."""
        with self._change:
            return list(reversed(self._jobs.values()))

    def start(self, stage: Stage, *, key: str | None = None) -> Job:
        """Queue a stage; a key that was used before returns its job.

        Args:
            stage: the command of `curate`.
            key: the client's idempotency key.

        Raises:
            ProjectError: too many jobs are waiting.
        """
        with self._change:
            if key is not None and (known := self._jobs.get(self._keys.get(key, ""))):
                return known
            if sum(job.state == "waiting" for job in self._jobs.values()) >= MOST_WAITING:
                raise ProjectError("jobs", f"already hold {MOST_WAITING} that wait", "cancel some, or wait until they have run")
            job = Job(uuid.uuid4().hex, stage, "waiting", _now())
            self._jobs[job.id] = job
            if key is not None:
                self._keys[key] = job.id
            ended = [name for name, one in self._jobs.items() if one.ended]
            for name in ended[: max(0, len(self._jobs) - MOST_JOBS)]:
                del self._jobs[name]
            if self._worker is None:
                self._worker = threading.Thread(target=self._work, daemon=True)
                self._worker.start()
            self._change.notify_all()
            return job

    def cancel(self, identity: str) -> Job:
        """Cancel a job that waits, or stop the one that runs; finished work is kept.

        Raises:
            ProjectError: there is no such job.
        """
        with self._change:
            job = self._jobs.get(identity)
            if job is None:
                raise ProjectError(f"job {identity[:40]}", "is not known", "list the jobs")
            if job.state == "waiting":
                self._jobs[identity] = replace(job, state="cancelled", ended=_now())
            elif job.state == "running":
                self._jobs[identity] = replace(job, state="cancelled")
                self._stop_process()
            return self._jobs[identity]

    def close(self) -> None:
        """Stop the running stage and start no other."""
        with self._change:
            self._closed = True
            self._stop_process()
            self._change.notify_all()

    def _stop_process(self) -> None:
        process = self._process
        if process is None:
            return
        process.terminate()
        killer = threading.Timer(STOP_S, process.kill)
        killer.daemon = True
        killer.start()

    def _work(self) -> None:
        while (job := self._next()) is not None:
            command = [sys.executable, "-m", "curation", job.stage, str(self._folder)]
            try:
                with self._running(job, command) as process:
                    output, _ = process.communicate()
                    state: State = "done" if process.returncode == 0 else "failed"
            except OSError as error:
                output, state = f"The stage could not be started: {error.strerror}", "failed"
            with self._change:
                if self._jobs[job.id].state == "cancelled":
                    state = "cancelled"
                ended = replace(self._jobs[job.id], state=state, ended=_now(), output=mask_secrets(output[-LONGEST:]))
                self._jobs[job.id] = ended

    def _next(self) -> Job | None:
        """Wait for a job and mark it as running; None once the queue is closed."""
        with self._change:
            while True:
                if self._closed:
                    return None
                waiting = next((job for job in self._jobs.values() if job.state == "waiting"), None)
                if waiting is not None:
                    self._jobs[waiting.id] = replace(waiting, state="running", started=_now())
                    return self._jobs[waiting.id]
                self._change.wait()

    @contextlib.contextmanager
    def _running(self, job: Job, command: list[str]) -> Iterator[subprocess.Popen[str]]:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        with self._change:
            self._process = process
            if self._closed or self._jobs[job.id].state == "cancelled":  # cancelled while the process started
                self._stop_process()
        try:
            yield process
        finally:
            with self._change:
                self._process = None


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
