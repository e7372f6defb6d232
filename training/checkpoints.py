"""How a killed run is taken up again: one process at a time, from the last whole checkpoint, and only with what it was begun with.

A checkpoint counts only when it holds the mark that is written after everything else in it. checkpoints/origin.json says which
settings, rows and base model the checkpoints belong to: weights of one run are never trained on with the rows of another.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from training.adapter import folder_digest, live_digest
from training.callbacks import last_tokens
from training.config import TrainingError
from training.run_folder import ADAPTER, CHECKPOINTS, MARK, METRICS, read_json, write_json

LOCK, ORIGIN, STATE = ".lock", "origin.json", "trainer_state.json"


@contextlib.contextmanager
def only_process(folder: Path) -> Iterator[None]:
    """Hold a run folder for this process. The system lets the lock go when the process ends, however it ends."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise TrainingError(str(folder), f"cannot be written ({error.strerror})", "name another output in the run file") from error
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            other = os.read(handle, 20).decode(errors="replace").strip() or "unknown"
            fact = f"another train process works in it (process {other})"
            raise TrainingError(str(folder), fact, "wait for it, or name another output in the run file") from None
        os.ftruncate(handle, 0)
        os.pwrite(handle, str(os.getpid()).encode(), 0)
        yield
    finally:
        os.close(handle)


def origin_of(checked: Mapping[str, Any]) -> dict[str, str]:
    """Return what the checkpoints of a run belong to, from its preflight.json."""
    facts = {"settings": checked["config_digest"], "snapshot": checked["snapshot"]["digest"], "base model": checked["base"]["digest"]}
    facts["data type"] = checked.get("dtype", "bfloat16")
    return facts | ({"SFT adapter": checked["sft_run"]["adapter_digest"]} if checked.get("sft_run") else {})


def check_origin(folder: Path, checked: Mapping[str, Any]) -> None:
    """Refuse a folder whose checkpoints were made with other settings, rows or weights than preflight has looked at."""
    file = folder / CHECKPOINTS / ORIGIN
    if find_checkpoint(folder) is None:
        return
    begun, now = {"data type": "bfloat16"} | (read_json(file) if file.is_file() else {}), origin_of(checked)
    other = [name for name, digest in now.items() if begun.get(name) != digest]
    if other:
        raise TrainingError(
            str(folder),
            f"holds a run that was begun with another {' and another '.join(other)}; going on would mix the two",
            f"name another output in the run file, or delete {folder / CHECKPOINTS} to begin again",
        )


def take_up(folder: Path, checked: Mapping[str, Any]) -> Path | None:
    """The checkpoint to go on from, made fit for this place; None begins anew. metrics.jsonl is put back to that moment."""
    check_origin(folder, checked)
    checkpoint = find_checkpoint(folder)
    (folder / CHECKPOINTS).mkdir(parents=True, exist_ok=True)
    write_json(folder / CHECKPOINTS / ORIGIN, origin_of(checked))
    if checkpoint is not None:
        _point_to_best(checkpoint)
    restore_metrics(folder, checkpoint)
    return checkpoint


def find_checkpoint(folder: Path) -> Path | None:
    """The last complete checkpoint; what a kill left half-written is taken away."""
    home = folder / CHECKPOINTS
    complete: list[tuple[int, Path]] = []
    for path in home.glob("checkpoint-*") if home.is_dir() else ():
        if (path / MARK).is_file():
            complete.append((int(path.name.removeprefix("checkpoint-")), path))
        else:
            shutil.rmtree(path)
    return max(complete)[1] if complete else None


def restore_metrics(folder: Path, checkpoint: Path | None) -> None:
    """Put metrics.jsonl back to what it was at the checkpoint, so that no step is in it twice."""
    history = read_json(checkpoint / STATE)["log_history"] if checkpoint else []
    (folder / METRICS).write_text("".join(json.dumps(entry) + "\n" for entry in history))


def train_from(trainer: Any, checkpoint: Path | None) -> None:
    """Train to the end. At a checkpoint where the run had already stopped, only the best weights are read back.

    Going on there would take more steps: the library clears the decision to stop when a training begins.
    """
    if checkpoint is not None and has_stopped(checkpoint):
        from transformers import TrainerState

        trainer.state = TrainerState.load_from_json(str(checkpoint / STATE))
        trainer._load_best_model()
    else:
        if checkpoint is not None:
            # TRL would count the tokens from nought again.
            trainer._total_train_tokens = last_tokens(read_json(checkpoint / STATE)["log_history"])
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    check_best(trainer)


def check_best(trainer: Any) -> None:
    """The weights in memory are those of the best checkpoint; the library only warns where it could not read them back."""
    best = trainer.state.best_model_checkpoint
    if best is None or folder_digest(Path(best)) != live_digest(trainer.model, "default"):
        raise TrainingError("adapter", f"is not the best checkpoint ({best}) after training; nothing was written", "train the run again")


def has_stopped(checkpoint: Path) -> bool:
    """Whether the run was over at this checkpoint: every step taken, or no better validation loss for too long."""
    state = read_json(checkpoint / STATE)
    stopping: dict[str, Any] = state["stateful_callbacks"]["EarlyStoppingCallback"]
    counted: int = stopping["attributes"]["early_stopping_patience_counter"]
    return bool(state["global_step"] >= state["max_steps"] or counted >= stopping["args"]["early_stopping_patience"])


@contextlib.contextmanager
def explain_failures(folder: Path, *, again: str) -> Iterator[None]:
    """Turn a disk that is full and a device that is too small into a sentence; every other error passes as it is."""
    import torch
    from safetensors import SafetensorError

    try:
        yield
    except torch.OutOfMemoryError as error:
        fact = f"the device has too little for a step ({str(error).split('.')[0]})"
        next_step = "lower optimizer.batch_size or optimizer.max_length in the run file and name another output"
        raise TrainingError("memory", fact, next_step) from error
    except (OSError, RuntimeError, SafetensorError) as error:
        # torch and safetensors wrap what the system said in errors of their own, so what was left half-written is the sign.
        full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        half = find_half_written(folder) or (folder if full else None)
        if half is None:
            raise
        text = " ".join(str(error).split())
        raise TrainingError(str(half), f"could not be written ({text})", f"make room on the disk, then {again} goes on") from error


def find_half_written(folder: Path) -> Path | None:
    """A checkpoint without its mark, or an adapter that was not renamed into place."""
    begun = [path for path in (folder / CHECKPOINTS).glob("checkpoint-*") if not (path / MARK).is_file()]
    aside = folder / f".{ADAPTER}.part"
    return begun[0] if begun else aside if aside.exists() else None


def _point_to_best(checkpoint: Path) -> None:
    """Name the best checkpoint where it is now: a run folder may have been moved, and the library keeps the whole path.

    A best checkpoint that is gone would leave the last weights in its place, without an error.
    """
    state = read_json(checkpoint / STATE)
    if state.get("best_model_checkpoint") is None:
        return
    best = checkpoint.with_name(Path(state["best_model_checkpoint"]).name)
    if not (best / MARK).is_file():
        raise TrainingError(str(best), "is gone; it held the best weights so far", f"delete {checkpoint.parent} to begin again")
    if state["best_model_checkpoint"] != str(best):
        write_json(checkpoint / STATE, state | {"best_model_checkpoint": str(best)})
