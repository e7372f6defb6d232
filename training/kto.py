"""Kahneman-Tversky optimization (Ethayarajh et al. 2024): what `training.train` does only for KTO.

KTO learns from answers that are good or bad on their own. Each pair of a preference snapshot gives a good and a bad row; imported feedback
(`curate import` of rows with a label true or false) is in that snapshot too. As in DPO, the run continues a finished SFT adapter, which is
also the frozen reference, with the same gates.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import JsonValue

from training.config import RunFile
from training.dpo import add_first_step_gate, check_before, describe_result, preference_loss, start_at_reference, trainer_arguments

__all__ = [
    "adjust_trainer",
    "check_before",
    "config_arguments",
    "config_settings",
    "describe_result",
    "find_warnings",
    "trainer_arguments",
]
BETA = 0.1
"""Default of the KTO paper."""
USUAL_RATES, USUAL_BETAS = (5e-7, 5e-5), (0.01, 0.5)
"""Outside these a run warns: a factor of ten around the default rate, and the values of beta that the paper compares."""
USUAL_RATIO = (3 / 4, 4 / 3)
"""Usual range of desirable_weight * good rows / (undesirable_weight * bad rows), from the paper. A pair gives one row of each."""
FIRST_LOSS = 0.5
"""Loss of a row of weight 1 while policy and reference are equal."""


def find_warnings(run: RunFile) -> list[str]:
    """Return a sentence for each setting that is allowed but far from the usual range."""
    found, settings, beta, rate = [], run.settings, beta_of(run), run.learning_rate
    if not USUAL_BETAS[0] <= beta <= USUAL_BETAS[1]:
        effect = "the policy may leave the reference quickly" if beta < USUAL_BETAS[0] else "the policy will hardly leave the reference"
        found.append(f"kto.beta {beta:g} is outside {USUAL_BETAS[0]} to {USUAL_BETAS[1]}, the usual range of KTO: {effect}")
    if not USUAL_RATES[0] <= rate <= USUAL_RATES[1]:
        effect = "a LoRA hardly changes at it" if rate < USUAL_RATES[0] else "the answers may lose their format"
        found.append(f"kto.learning_rate {rate:g} is far from 5e-6, the usual rate for KTO of a LoRA: {effect}")
    if settings.per_device_train_batch_size == 1:
        found.append("kto.per_device_train_batch_size 1: the distance to the reference is estimated from the other rows of a batch")
    good, bad = row_weights(run)
    if bad == 0 or not USUAL_RATIO[0] <= good / bad <= USUAL_RATIO[1]:
        found.append(f"kto.desirable_weight {good:g} and undesirable_weight {bad:g}: with as many good rows as bad ones 1 and 1 are usual")
    if settings.max_steps is None and settings.num_train_epochs > 1:
        found.append(f"kto.num_train_epochs {settings.num_train_epochs:g}: more than one epoch over the same rows tends to over-fit")
    return found


def beta_of(run: RunFile) -> float:
    """Return the run's beta, by default the paper's."""
    assert run.kto is not None
    return run.kto.beta or BETA


def row_weights(run: RunFile) -> tuple[float, float]:
    """Return the weights of a good and of a bad row in the loss."""
    more = run.settings.model_extra or {}
    return float(more.get("desirable_weight", 1.0)), float(more.get("undesirable_weight", 1.0))


def config_arguments(run: RunFile) -> dict[str, Any]:
    """Return KTOConfig's own arguments."""
    return {"beta": beta_of(run)}


def config_settings(run: RunFile) -> dict[str, JsonValue]:
    """Return the settings for run.json beyond the shared ones."""
    return {"beta": beta_of(run)}


def adjust_trainer(trainer: Any) -> None:
    """Add the gate of the first step and give the policy the reference's exact weights."""

    def read(logs: Mapping[str, Any]) -> tuple[float, float]:
        # A batch may have rows of one kind only. A distance below 0 is cut to 0, so one above 0 shows a difference.
        rewards = [float(logs[key]) for key in ("rewards/chosen", "rewards/rejected", "kl") if key in logs]
        equal = trainer.desirable_weight == trainer.undesirable_weight == 1.0
        return preference_loss(trainer, logs) if equal else FIRST_LOSS, max(rewards, key=abs)

    add_first_step_gate(trainer, read, expected=FIRST_LOSS)
    start_at_reference(trainer.model)
