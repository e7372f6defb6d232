"""The table of training methods: what a method trains on, which TRL classes it uses and its defaults.

A method is one entry here and one module of the same name (`training/sft.py`, `training/dpo.py`) with the functions of
`training.train.MethodModule`. The table imports neither torch nor TRL, so the run file and the command line can read it.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any, Literal

from curation.records import Kind

MethodName = Literal["sft", "dpo"]


@dataclass(frozen=True)
class Method:
    """One training method."""

    name: MethodName
    summary: str
    """Help text of `train NAME`."""
    rows: Kind
    """Kind of snapshot it trains on."""
    answers: tuple[str, ...]
    """Columns that hold an answer and enter the loss."""
    trainer: str
    """Trainer class in `trl`."""
    config: str
    """Configuration class in `trl`."""
    learning_rate: float
    epochs: float
    settings: frozenset[str]
    """Keys of the run file that only this method, or a method that lists them too, accepts."""
    continues: MethodName | None = None
    """Method whose finished adapter it starts from; that adapter is also the frozen reference. None starts a fresh adapter."""

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns of a snapshot that the trainer takes."""
        return ("prompt", *self.answers)

    @property
    def module(self) -> Any:
        """The module with the method's own steps (`training.train.MethodModule`), imported on first use."""
        return importlib.import_module(f"training.{self.name}")


METHODS: dict[MethodName, Method] = {
    "sft": Method(
        name="sft",
        summary="Train an adapter on an instruction snapshot; run the command again to resume. Example: train sft sft.yaml",
        rows="instruction",
        answers=("completion",),
        trainer="SFTTrainer",
        config="SFTConfig",
        learning_rate=2e-4,  # QLoRA (Dettmers et al. 2023) for models below 13B
        epochs=3,
        settings=frozenset({"lora", "purpose"}),
    ),
    "dpo": Method(
        name="dpo",
        summary="Continue an SFT adapter with preference pairs; run the command again to resume. Example: train dpo dpo.yaml",
        rows="preference",
        answers=("chosen", "rejected"),
        trainer="DPOTrainer",
        config="DPOConfig",
        # Ten times the 5e-7 of full fine-tuning: only the small adapter is trained, so its weights must move further.
        learning_rate=5e-6,
        epochs=1,
        settings=frozenset({"sft_adapter", "beta"}),
        continues="sft",
    ),
}


def columns_of(rows: Kind) -> tuple[str, ...]:
    """Return the columns that a trainer takes from a snapshot of this kind."""
    return next(method.columns for method in METHODS.values() if method.rows == rows)
