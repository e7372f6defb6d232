"""Start the ranks of a run on this machine, and turn the failure of one into one sentence.

torch's elastic launcher starts the processes, watches them and stops the others when one fails. Each rank writes its error to the file
that the launcher names, because the ranks print at the same time and most of them only report that a connection closed.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import logging
import os
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from curation.errors import UserError, command
from training.checkpoints import find_checkpoint
from training.config import RunFile
from training.errors import TrainingError
from training.libraries import use_all_gpus
from training.ranks import rank, refuse_strategy, world_size
from training.run_folder import LOG

RANK_LOG = "SEEDCORN_RANK_LOG"
"""Environment variable of the ranks that `launch` starts: the log file for a traceback."""


def must_launch(run: RunFile) -> bool:
    """Return whether the run needs several processes and this one is not among them."""
    return run.devices > 1 and world_size() == 1


def launch(run: RunFile, arguments: Sequence[str]) -> None:
    """Start the ranks of a run on this machine and wait for them.

    Args:
        run: the run file.
        arguments: of the command `train`, for each rank.

    Raises:
        TrainingError: a rank failed or was killed; the others were stopped.
    """
    use_all_gpus()
    import torch
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    refuse_strategy(run)
    if torch.cuda.is_available() and torch.cuda.device_count() < run.devices:
        fact = f"is {run.devices}, and this machine has {torch.cuda.device_count()} GPUs"
        raise TrainingError("devices", fact, "lower it, or start the ranks on several machines with torchrun")
    # By default every rank would start as many threads as there are cores.
    os.environ.setdefault("OMP_NUM_THREADS", str(run.threads or max(1, (os.cpu_count() or 1) // run.devices)))
    os.environ[RANK_LOG] = str(run.output / LOG)
    with tempfile.TemporaryDirectory(prefix="ranks-") as aside:
        config = LaunchConfig(
            min_nodes=1,
            max_nodes=1,
            nproc_per_node=run.devices,
            run_id="seedcorn",
            rdzv_backend="c10d",
            rdzv_endpoint="localhost:0",
            local_addr="localhost",
            max_restarts=0,
            logs_specs=DefaultLogsSpecs(log_dir=aside),
        )
        # The launcher logs warnings about a failed rank, which the error below says in a sentence.
        logging.disable(logging.CRITICAL)
        try:
            elastic_launch(config, sys.executable)("-m", "training", *arguments)
        except ChildFailedError as error:
            raise explain_failed(run, error.failures) from None
        except SignalException as stopped:
            raise KeyboardInterrupt from stopped
        finally:
            logging.disable(logging.NOTSET)
            del os.environ[RANK_LOG]


def explain_failed(run: RunFile, failures: dict[int, Any]) -> TrainingError:
    """Return the error of the rank that failed first; the others fail only because its connection closed.

    Args:
        run: the run file.
        failures: torch's `ProcessFailure` of each rank that failed.
    """
    again = command("train", run.kind, run.source)
    killed = {number: failure for number, failure in failures.items() if failure.exitcode < 0 and failure.exitcode != -signal.SIGTERM}
    if killed:
        number, failure = min(killed.items())
        checkpoint = find_checkpoint(run.output)
        kept = f"{checkpoint.name} is kept" if checkpoint else "there was no checkpoint yet"
        reason = " (often the system's answer to too little memory)" if failure.exitcode == -signal.SIGKILL else ""
        fact = f"was stopped by {failure.signal_name()}{reason}, and the other ranks were stopped with it; {kept}"
        return TrainingError(f"rank {number} of {run.devices}", fact, f"run {again} to {'resume' if checkpoint else 'start again'}")
    reports = [(read_report(Path(failure.error_file)), number) for number, failure in failures.items()]
    known = sorted(((report["time"], number, report) for report, number in reports if report), key=lambda item: item[:2])
    # A connection that closed is the consequence of another rank's failure.
    first = next((item for item in known if item[2]["next_step"]), known[0] if known else None)
    if first is None:
        number, failure = min(failures.items())
        return TrainingError(f"rank {number} of {run.devices}", f"ended with status {failure.exitcode}", f"read {run.output / LOG}")
    _, number, report = first
    if report["next_step"]:
        what = report["what"] if number == 0 else f"rank {number} of {run.devices}: {report['what']}"
        return TrainingError(what, report["fact"], report["next_step"])
    return TrainingError(f"rank {number} of {run.devices}", report["fact"], f"read its traceback in {run.output / LOG}")


def read_report(file: Path) -> dict[str, Any] | None:
    """Return the report of a rank that failed, or None if it wrote none."""
    if not file.is_file():
        return None
    report: dict[str, Any] | None = json.loads(file.read_text()).get("seedcorn")
    return report


@contextlib.contextmanager
def report_errors() -> Iterator[None]:
    """In a rank that `launch` started, hand an error to the launcher and exit; elsewhere let it pass."""
    if RANK_LOG not in os.environ or world_size() == 1:
        yield
        return
    stop_with_launcher()
    try:
        yield
    except Exception as error:
        is_known = isinstance(error, UserError)
        if not is_known:
            with contextlib.suppress(OSError), Path(os.environ[RANK_LOG]).open("a") as log:
                log.write(f"rank {rank()}: {traceback.format_exc()}")
        text = f"failed with {type(error).__name__}: {' '.join(str(error).split())[:300]}"
        what, fact, next_step = (error.what, error.fact, error.next_step) if isinstance(error, UserError) else ("", text, "")
        report = {"time": time.time(), "what": what, "fact": fact, "next_step": next_step}
        # The layout that torch's launcher expects in this file.
        written = {"message": {"message": text, "extraInfo": {"timestamp": str(int(time.time())), "py_callstack": ""}}, "seedcorn": report}
        Path(os.environ["TORCHELASTIC_ERROR_FILE"]).write_text(json.dumps(written))
        # Without the exit handlers, which would wait for the other ranks.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(2 if is_known else 1)


def stop_with_launcher() -> None:
    """Let the system stop this rank when its launcher dies, also by a kill; on other systems than Linux a rank would train on."""
    if sys.platform == "linux":
        set_parent_death_signal = 1  # linux/prctl.h: PR_SET_PDEATHSIG
        ctypes.CDLL(None).prctl(set_parent_death_signal, signal.SIGTERM)
