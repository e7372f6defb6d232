"""What a person sees of a run: short progress on the screen, everything the libraries say in a file.

torch, bitsandbytes and datasets write to the process's file descriptors, some of it from C, so those are redirected, not
only Python's streams.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from training.folder import METRICS

Say = Callable[[str], None]


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
        yield lambda text: print(text, file=screen, flush=True)
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


def run_callbacks(folder: Path, say: Say) -> list[Any]:
    """Trainer callbacks: metrics.jsonl as it happens, a short account on the screen, and the mark of a whole checkpoint."""
    from transformers import TrainerCallback

    from training.folder import MARK

    class Account(TrainerCallback):
        started = time.monotonic()

        def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any) -> None:
            entry = {**(logs or {}), "step": state.global_step}
            with (folder / METRICS).open("a") as stream:
                stream.write(json.dumps(entry) + "\n")
            every = max(1, state.max_steps // 10)
            if "eval_loss" in entry:
                say(f"  step {state.global_step:>4}/{state.max_steps}  validation loss {entry['eval_loss']:.4f}")
            elif "loss" in entry and (state.global_step % every == 0 or state.global_step == 1):
                seconds = time.monotonic() - self.started
                say(f"  step {state.global_step:>4}/{state.max_steps}  loss {float(entry['loss']):.4f}  {seconds:.0f} s")

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if state.global_step >= state.max_steps:
                # The steps seldom divide evenly; the last one is evaluated too, or the best checkpoint could not be it.
                control.should_evaluate = control.should_save = True

        def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            (Path(args.output_dir) / f"checkpoint-{state.global_step}" / MARK).touch()

    return [Account()]
