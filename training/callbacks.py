"""Trainer callbacks, experiment trackers and the output of a run: short progress on the screen, library output in log.txt.

torch, bitsandbytes and datasets write to the file descriptors of the process, some of it from C, so the descriptors are redirected and
not only Python's streams.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import netrc
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias
from urllib.parse import urlsplit

from argilla_setup.shown import mask_secrets, visible
from training.config import RunFile
from training.errors import TrainingError
from training.records import PreflightReport
from training.run_folder import MARK, METRICS

Say = Callable[[str], None]
LogEntry: TypeAlias = Mapping[str, Any]
"""An entry of the trainer's log: step, losses, rates, tokens."""
TENSORBOARD = "tensorboard"
"""Folder of TensorBoard's events in the run folder."""
SILENCE = 30.0
"""Longest time between two lines of progress, in seconds."""


@contextlib.contextmanager
def library_logs(file: Path) -> Iterator[Say]:
    """Redirect stdout and stderr to `file` and yield a function that prints to the screen (stderr)."""
    file.parent.mkdir(parents=True, exist_ok=True)
    sys.stdout.flush()
    sys.stderr.flush()
    # The descriptors are duplicated first, so that the screen can still be reached and is restored at the end.
    kept = os.dup(1), os.dup(2)
    log = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    screen = os.fdopen(os.dup(kept[1]), "w", buffering=1)
    try:
        # Both descriptors share one open file, so the lines of stdout and stderr stay in order.
        os.dup2(log, 1)
        os.dup2(log, 2)
        yield lambda text: print(visible(mask_secrets(text)), file=screen, flush=True)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        for source, target in zip(kept, (1, 2), strict=True):
            os.dup2(source, target)
            os.close(source)
        os.close(log)
        screen.close()


@dataclass(frozen=True)
class Tracking:
    """The description of a run for an experiment tracker."""

    name: str
    project: str
    id: str
    """Equal for a resumed run, so that the tracker continues it."""
    config: dict[str, dict[str, str]]


def describe_tracking(run: RunFile, report: PreflightReport) -> Tracking:
    """Describe a run for Weights & Biases and trackio, with the snapshot in its name and its digest in the configuration.

    WANDB_PROJECT sets the project; by default it is the snapshot's name without its kind.
    """
    snapshot, base = report.snapshot, report.base
    # The same run folder, settings and rows give the same id, so that a tracker joins a resumed run to its beginning.
    identity = f"{run.output.resolve()} {run.digest} {snapshot.digest}"
    facts: dict[str, str] = {
        "kind": run.kind,
        "use": run.use,
        "snapshot": f"{snapshot.name} v{snapshot.version}",
        "snapshot_digest": snapshot.digest,
        "base_model": base.id,
        "base_digest": base.digest,
        "config_digest": run.digest,
    }
    if sft := report.sft_run:
        facts |= {"sft_adapter_digest": sft.adapter_digest, "sft_snapshot_digest": sft.digest}
    return Tracking(
        name=f"{run.output.name}-{snapshot.name}-v{snapshot.version}-{snapshot.digest[:8]}",
        project=os.environ.get("WANDB_PROJECT") or snapshot.name.removesuffix(f"-{snapshot.kind}"),
        id=hashlib.sha256(identity.encode()).hexdigest()[:16],
        config={"seedcorn": facts},
    )


def logger_callbacks(run: RunFile, tracking: Tracking | None) -> list[Any]:
    """Return the callbacks of the run file's logger, or none without `tracking`. TensorBoard's events stay in the run folder."""
    if tracking is None or run.logger == "none":
        return []
    from transformers import integrations as library

    integrations: Any = library  # the classes are untyped
    if run.logger == "tensorboard":
        return [_tensorboard_callback(run.output / TENSORBOARD, integrations.TensorBoardCallback)]
    if run.logger == "trackio":
        return [integrations.TrackioCallback()]
    return _wandb_callbacks(run.output, tracking)


def wandb_host() -> str:
    """Return the host of the configured W&B server."""
    return urlsplit(os.environ.get("WANDB_BASE_URL") or "https://api.wandb.ai").hostname or "api.wandb.ai"


def has_wandb_login() -> bool:
    """Return whether W&B can start a run without a prompt: a key, an entry in .netrc, an identity token, or a mode without login."""
    if os.environ.get("WANDB_MODE", "").lower() in ("offline", "disabled", "dryrun", "shared"):
        return True
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    homes = [os.environ["NETRC"]] if os.environ.get("NETRC") else ["~/.netrc", "~/_netrc"]
    files = [path for path in (Path(home).expanduser() for home in homes) if path.is_file()]
    try:
        return any(netrc.netrc(str(path)).authenticators(wandb_host()) for path in files)
    except netrc.NetrcParseError:
        return False


def _tensorboard_callback(folder: Path, library_callback: Any) -> Any:
    """Return transformers' callback with its events in the run folder; by default they are among the checkpoints, which are deleted.

    A resumed run takes some steps again, so the events of the killed process for those steps are purged.
    """

    class RunFolderCallback(library_callback):  # type: ignore[misc]
        def on_train_begin(self, args: Any, state: Any, control: Any, **more: Any) -> None:
            self.logging_dir = str(folder)
            if state.global_step:
                self.tb_writer = self._SummaryWriter(log_dir=self.logging_dir, purge_step=state.global_step + 1)
            super().on_train_begin(args, state, control, **more)

    return RunFolderCallback()


def _wandb_callbacks(folder: Path, tracking: Tracking) -> list[Any]:
    """Return callbacks that start and end the W&B run around transformers' callback, which sets neither project nor configuration."""
    import wandb
    from transformers import TrainerCallback, integrations

    library: Any = integrations  # the classes are untyped

    class Begin(TrainerCallback):
        def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if wandb.run is None:
                named = {"project": tracking.project, "name": tracking.name, "id": tracking.id, "config": tracking.config}
                wandb.init(**named, resume="allow", dir=str(folder))

    class End(TrainerCallback):
        def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            wandb.finish()

    # In this order: transformers' callback uses a run that is open, and otherwise starts one of its own.
    return [Begin(), library.WandbCallback(), End()]


def run_callbacks(folder: Path, say: Say) -> list[Any]:
    """Return the callbacks of every run: metrics.jsonl, progress on the screen, and the marks of complete checkpoints."""
    from transformers import TrainerCallback

    class RunCallback(TrainerCallback):
        pace = Pace()

        def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            self.pace = Pace(step=state.global_step, tokens=last_tokens(state.log_history))

        def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any) -> None:
            entry = {**(logs or {}), "step": state.global_step}
            # Before the entry is written: a run that diverged must not resume from it.
            refuse_divergence(entry)
            with (folder / METRICS).open("a") as stream:
                stream.write(json.dumps(entry) + "\n")
            if "eval_loss" in entry:
                say(f"  step {state.global_step:>4}/{state.max_steps}  validation loss {entry['eval_loss']:.4f}")
            elif "loss" in entry and self.pace.is_due(state.global_step, state.max_steps):
                pace = self.pace.text(entry, state.max_steps)
                say(f"  step {state.global_step:>4}/{state.max_steps}  loss {float(entry['loss']):.4f}  {pace}")

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if state.global_step >= state.max_steps:
                # Evaluate the last step too, although it is rarely a multiple of every_steps: it can be the best one.
                control.should_evaluate = control.should_save = True

        def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            mark_checkpoint(Path(args.output_dir), step=state.global_step, best=state.best_model_checkpoint)

    return [RunCallback()]


class Pace:
    """Speed of a run, counted from the step where this process started or resumed."""

    def __init__(self, *, step: int = 0, tokens: float = 0) -> None:
        self.started, self.step, self.tokens = time.monotonic(), step, tokens
        self.printed = self.started

    def is_due(self, step: int, steps: int) -> bool:
        """Return whether to print progress: at the first step, at each tenth of the run, and after SILENCE seconds."""
        now = time.monotonic()
        due = step == self.step + 1 or step % max(1, steps // 10) == 0 or now - self.printed >= SILENCE
        self.printed = now if due else self.printed
        return due

    def text(self, entry: LogEntry, steps: int) -> str:
        """Return elapsed time, tokens per second and the remaining time, which needs more than one step."""
        seconds, done = time.monotonic() - self.started, entry["step"] - self.step
        speed = f"{(entry['num_tokens'] - self.tokens) / max(seconds, 1e-9):,.0f} tokens/s" if "num_tokens" in entry else ""
        left = f"about {_clock(seconds / done * (steps - entry['step']))} left" if done > 1 and steps > entry["step"] else ""
        return "  ".join(part for part in (_clock(seconds), speed, left) if part)


def refuse_divergence(entry: LogEntry) -> None:
    """Stop a run whose loss is not finite: its weights are not finite either, and later steps cannot recover."""
    for key in ("loss", "grad_norm", "eval_loss"):
        if key in entry and not math.isfinite(float(entry[key])):
            raise TrainingError(
                f"step {entry['step']}",
                f"{key} is {float(entry[key])}; the run has diverged and no adapter was written",
                "lower learning_rate in the run file and name another output",
            )


def mark_checkpoint(home: Path, *, step: int, best: str | None) -> None:
    """Mark a checkpoint as complete, then delete the older ones except the last two and the best.

    Args:
        home: the folder of the checkpoints.
        step: step of the checkpoint.
        best: path of the best checkpoint so far.
    """
    # The mark comes first: a kill between the two lines leaves one checkpoint too many, never one too few.
    (home / f"checkpoint-{step}" / MARK).touch()
    steps = sorted(int(path.name.removeprefix("checkpoint-")) for path in home.glob("checkpoint-*"))
    kept = {f"checkpoint-{number}" for number in steps[-2:]} | {Path(best or "").name}
    for path in home.glob("checkpoint-*"):
        if path.name not in kept:
            shutil.rmtree(path, ignore_errors=True)


def last_tokens(history: Sequence[LogEntry]) -> float:
    """Return the number of tokens trained on so far, from the last entry that has it."""
    return next((float(entry["num_tokens"]) for entry in reversed(history) if "num_tokens" in entry), 0.0)


def _clock(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
