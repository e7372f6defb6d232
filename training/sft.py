"""Supervised fine-tuning: what `training.train` does only for SFT.

QLoRA (Dettmers et al. 2023) on the completions of an instruction snapshot: a new LoRA adapter over a 4-bit base model, with the loss on
the completion only.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic import JsonValue

from training.chat import Row
from training.config import Lora, RunFile
from training.model import check_packing, lora_config
from training.records import MethodFields, PreflightReport


def find_warnings(run: RunFile) -> list[str]:
    """Return no warnings: SFT has no setting with a narrow usual range."""
    return []


def trainer_arguments(run: RunFile, base: Any, tokenizer: Any, rows: Sequence[Row]) -> dict[str, Any]:
    """Return the base model and PEFT's configuration of a new adapter on it; refuse packing for a model that mixes packed rows.

    Args:
        run: the run file.
        base: the loaded base model.
        tokenizer: the base model's.
        rows: the rows to train on; the first one tests packing.
    """
    if run.packing:
        text = tokenizer.apply_chat_template([*rows[0]["prompt"], *rows[0]["completion"]], tokenize=False)
        check_packing(base, tokenizer(text, add_special_tokens=False)["input_ids"])
    return {"model": base, "peft_config": lora_config(run.lora or Lora(), base)}


def config_arguments(run: RunFile) -> dict[str, Any]:
    """Return SFTConfig's own arguments."""
    return {"packing": run.packing, "completion_only_loss": True}


def config_settings(run: RunFile) -> dict[str, JsonValue]:
    """Return no settings for run.json beyond the shared ones."""
    return {}


def adjust_trainer(trainer: Any) -> None:
    """Leave the trainer as it was built."""


def check_before(model: Any, report: PreflightReport) -> None:
    """Accept every model: a new adapter has no reference to compare with."""


def describe_result(trainer: Any, run: RunFile, report: PreflightReport) -> MethodFields:
    """Return no fields of run.json beyond the shared ones.

    Args:
        trainer: the trainer after the training.
        run: the run file.
        report: preflight.json.
    """
    return {}
