"""What a person sees of a run: short progress on the screen, everything the libraries say in a file.

torch, bitsandbytes and datasets write to the process's file descriptors, some of it from C, so those are redirected, not
only Python's streams.
"""

from __future__ import annotations

import contextlib
import ctypes
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
from typing import Any
from urllib.parse import urlsplit

from argilla_setup.shown import mask_secrets, visible
from training.config import RunFile, TrainingError
from training.run_folder import MARK, METRICS

Say = Callable[[str], None]
TENSORBOARD = "tensorboard"
"""Folder of TensorBoard's events in the run folder."""
SILENCE = 30.0
"""Seconds; longer without a word, and people wonder whether it still runs."""


@contextlib.contextmanager
def library_logs(file: Path) -> Iterator[Say]:
    """Send stdout and stderr to `file`; yields a function that still reaches the screen (stderr)."""
    file.parent.mkdir(parents=True, exist_ok=True)
    sys.stdout.flush()
    sys.stderr.flush()
    kept = os.dup(1), os.dup(2)
    log = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    screen = os.fdopen(os.dup(kept[1]), "w", buffering=1)
    try:
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


def quiet_libraries() -> None:
    """No telemetry, no hub, no progress bars; call before transformers is imported."""
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("TQDM_DISABLE", "1")
    # Waiting threads sleep instead of spinning: on a busy 2-core machine an evaluation took half the CPU time.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def use_one_gpu() -> None:
    """One GPU a run, the first unless CUDA_VISIBLE_DEVICES names another; call before torch is imported.

    Where it sees more, the trainer multiplies the batch by their number, and the 4-bit model uses only one of them.
    """
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "0")


def keep_freed_memory() -> None:
    """Let the C library keep what torch frees, on Linux with glibc.

    By default each large tensor is mapped and unmapped again, and clearing its pages took 15 to 25 % of a training step on a CPU.
    """
    if sys.platform != "linux":
        return
    libc = ctypes.CDLL(None)
    if hasattr(libc, "gnu_get_libc_version") and hasattr(libc, "mallopt"):
        mmap_max, trim_threshold = -4, -1  # malloc.h: M_MMAP_MAX, M_TRIM_THRESHOLD
        libc.mallopt(mmap_max, 0)
        libc.mallopt(trim_threshold, 2**31 - 1)


@dataclass(frozen=True)
class Tracking:
    """What an experiment tracker is told of a run."""

    name: str
    project: str
    id: str
    """The same for a run that is resumed, so that it stays one run there."""
    config: dict[str, Any]


def describe_tracking(run: RunFile, checked: Mapping[str, Any]) -> Tracking:
    """Describe a run for Weights & Biases and trackio: the snapshot is in its name, and its digest is in the configuration.

    WANDB_PROJECT names the project; by default it is the snapshot's name without its kind.
    """
    snapshot, base = checked["snapshot"], checked["base"]
    where = f"{run.output.resolve()} {run.digest} {snapshot['digest']}"
    facts = {
        "kind": run.kind,
        "use": run.use,
        "snapshot": f"{snapshot['name']} v{snapshot['version']}",
        "snapshot_digest": snapshot["digest"],
        "base_model": base["id"],
        "base_digest": base["digest"],
        "config_digest": run.digest,
    }
    if sft := checked.get("sft_run"):
        facts |= {"sft_adapter_digest": sft["adapter_digest"], "sft_snapshot_digest": sft["digest"]}
    return Tracking(
        name=f"{run.output.name}-{snapshot['name']}-v{snapshot['version']}-{snapshot['digest'][:8]}",
        project=os.environ.get("WANDB_PROJECT") or snapshot["name"].removesuffix(f"-{snapshot['kind']}"),
        id=hashlib.sha256(where.encode()).hexdigest()[:16],
        config={"seedcorn": facts},
    )


def logger_callbacks(run: RunFile, tracking: Tracking | None) -> list[Any]:
    """Return the callbacks of the run file's logger; none without `tracking`. TensorBoard's events stay in the run folder."""
    if tracking is None or run.logger == "none":
        return []
    from transformers import integrations as library

    integrations: Any = library  # its classes have no types
    if run.logger == "tensorboard":
        return [_tensorboard_callback(run.output / TENSORBOARD, integrations.TensorBoardCallback)]
    if run.logger == "trackio":
        return [integrations.TrackioCallback()]
    return _wandb_callbacks(run.output, tracking)


def wandb_host() -> str:
    """Return the host of the W&B server in use."""
    return urlsplit(os.environ.get("WANDB_BASE_URL") or "https://api.wandb.ai").hostname or "api.wandb.ai"


def has_wandb_login() -> bool:
    """Whether W&B can start a run without asking: a key, an entry in .netrc, an identity token, or a mode that needs none."""
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
    """The library's callback, with its events in the run folder: its default lies among the checkpoints, which are deleted.

    A resumed run takes some steps again; the reader drops what the killed process wrote of them.
    """

    class Kept(library_callback):  # type: ignore[misc]
        def on_train_begin(self, args: Any, state: Any, control: Any, **more: Any) -> None:
            self.logging_dir = str(folder)
            if state.global_step:
                self.tb_writer = self._SummaryWriter(log_dir=self.logging_dir, purge_step=state.global_step + 1)
            super().on_train_begin(args, state, control, **more)

    return Kept()


def _wandb_callbacks(folder: Path, tracking: Tracking) -> list[Any]:
    """Begin and end the W&B run around the library's callback, which can set neither project nor configuration."""
    import wandb
    from transformers import TrainerCallback, integrations

    library: Any = integrations  # its classes have no types

    class Begin(TrainerCallback):
        def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if wandb.run is None:
                named = {"project": tracking.project, "name": tracking.name, "id": tracking.id, "config": tracking.config}
                wandb.init(**named, resume="allow", dir=str(folder))

    class End(TrainerCallback):
        def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            wandb.finish()

    return [Begin(), library.WandbCallback(), End()]


def run_callbacks(folder: Path, say: Say) -> list[Any]:
    """Trainer callbacks: metrics.jsonl as it happens, a short account on the screen, and the mark of a whole checkpoint."""
    from transformers import TrainerCallback

    class Account(TrainerCallback):
        pace = Pace()

        def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            self.pace = Pace(step=state.global_step, tokens=last_tokens(state.log_history))

        def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any) -> None:
            entry = {**(logs or {}), "step": state.global_step}
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
                # The steps seldom divide evenly; the last one is evaluated too, or the best checkpoint could not be it.
                control.should_evaluate = control.should_save = True

        def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            mark_checkpoint(Path(args.output_dir), step=state.global_step, best=state.best_model_checkpoint)

    return [Account()]


class Pace:
    """How fast a run goes, counted from where this process took it up."""

    def __init__(self, *, step: int = 0, tokens: float = 0) -> None:
        self.started, self.step, self.tokens = time.monotonic(), step, tokens
        self.said = self.started

    def is_due(self, step: int, steps: int) -> bool:
        """Whether to say something: at the first step, at each tenth of the run, and where those are far apart, every half minute."""
        now = time.monotonic()
        due = step == self.step + 1 or step % max(1, steps // 10) == 0 or now - self.said >= SILENCE
        self.said = now if due else self.said
        return due

    def text(self, entry: Mapping[str, Any], steps: int) -> str:
        """Seconds so far, tokens a second, and what is left at this pace; the first step tells too little for that."""
        seconds, done = time.monotonic() - self.started, entry["step"] - self.step
        speed = f"{(entry['num_tokens'] - self.tokens) / max(seconds, 1e-9):,.0f} tokens/s" if "num_tokens" in entry else ""
        left = f"about {_clock(seconds / done * (steps - entry['step']))} left" if done > 1 and steps > entry["step"] else ""
        return "  ".join(part for part in (_clock(seconds), speed, left) if part)


def refuse_divergence(entry: Mapping[str, Any]) -> None:
    """End a run whose loss is no number: the weights behind it are no weights, and no later step mends them."""
    for key in ("loss", "grad_norm", "eval_loss"):
        if key in entry and not math.isfinite(float(entry[key])):
            raise TrainingError(
                f"step {entry['step']}",
                f"{key} is {float(entry[key])}; the run has diverged and no adapter was written",
                "lower optimizer.learning_rate in the run file and name another output",
            )


def mark_checkpoint(home: Path, *, step: int, best: str | None) -> None:
    """Mark a checkpoint as whole; only then take the older ones away, but for the last and the best."""
    (home / f"checkpoint-{step}" / MARK).touch()
    steps = sorted(int(path.name.removeprefix("checkpoint-")) for path in home.glob("checkpoint-*"))
    kept = {f"checkpoint-{number}" for number in steps[-2:]} | {Path(best or "").name}
    for path in home.glob("checkpoint-*"):
        if path.name not in kept:
            shutil.rmtree(path, ignore_errors=True)


def last_tokens(history: Sequence[Mapping[str, Any]]) -> float:
    """Tokens trained on so far, as the last entry that counts them says."""
    return next((float(entry["num_tokens"]) for entry in reversed(history) if "num_tokens" in entry), 0.0)


def _clock(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
