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
from training.data import WEIGHT
from training.model import check_packing, lora_config
from training.records import MethodFields, PreflightReport

USUAL_RATES, USUAL_SCALES, MOST_EPOCHS = (1e-5, 2e-3), (0.5, 4.0), 10
"""Outside these a run warns. Rates: ten times 2e-4, the rate of QLoRA, and the 1e-5 of full fine-tuning. lora_alpha / r: 1 and
2 are usual. Epochs: instruction tuning takes 1 to 5."""


def find_warnings(run: RunFile) -> list[str]:
    """Return a sentence for each setting that is allowed but far from the usual range."""
    found, rate, lora = [], run.learning_rate, run.lora or Lora()
    if not USUAL_RATES[0] <= rate <= USUAL_RATES[1]:
        effect = "a LoRA hardly changes at it" if rate < USUAL_RATES[0] else "the training may diverge"
        found.append(f"sft.learning_rate {rate:g} is outside 1e-5 to 2e-3, the usual range for a LoRA: {effect}")
    if not USUAL_SCALES[0] <= (scale := lora.lora_alpha / lora.r) <= USUAL_SCALES[1]:
        found.append(f"lora.lora_alpha is {scale:g} times lora.r; 2 is usual, and the scale multiplies the learning rate")
    if run.settings.max_steps is None and run.settings.num_train_epochs > MOST_EPOCHS:
        found.append(
            f"sft.num_train_epochs {run.settings.num_train_epochs:g} is above {MOST_EPOCHS}: the model may learn the rows by heart"
        )
    return found


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
    """Multiply the training loss of each row by its weight, if the rows have any; the validation loss is not weighted."""
    import torch

    if WEIGHT not in trainer.train_dataset.column_names:
        return
    collate, plain_loss = trainer.data_collator, trainer.compute_loss

    def with_weights(rows: list[dict[str, Any]]) -> dict[str, Any]:
        batch: dict[str, Any] = collate(rows)
        return batch | ({WEIGHT: torch.tensor([row[WEIGHT] for row in rows])} if WEIGHT in rows[0] else {})

    def weighted_loss(model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None) -> Any:
        weights = inputs.pop(WEIGHT, None)
        if weights is None:
            return plain_loss(model, inputs, return_outputs=return_outputs, num_items_in_batch=num_items_in_batch)
        # TRL returns no log-probabilities of the tokens, so they are taken from the forward pass that it makes.
        outputs: list[Any] = []
        hook = model.register_forward_hook(lambda module, given, output: outputs.append(output))
        try:
            loss = plain_loss(model, inputs, num_items_in_batch=num_items_in_batch)
        finally:
            hook.remove()
        [output] = outputs
        # TRL's loss is -sum(log_probs) / tokens. Only the difference is added, so that a router's auxiliary loss stays as it is.
        tokens = output.label_mask.sum() if num_items_in_batch is None else torch.as_tensor(num_items_in_batch)
        # The count is that of all ranks, over which the gradients are averaged.
        ranks = 1 if num_items_in_batch is None else trainer.accelerator.num_processes
        loss = loss - ranks * ((weights - 1)[:, None] * output.log_probs).sum() / tokens.clamp(min=1)
        return (loss, output) if return_outputs else loss

    trainer.data_collator, trainer.compute_loss = with_weights, weighted_loss
    # TRL keeps these columns and no others, unless the list exists.
    trainer._signature_columns = ["input_ids", "labels", "seq_lengths", WEIGHT]


def check_before(model: Any, run: RunFile, report: PreflightReport) -> None:
    """Accept every model: a new adapter has no reference to compare with."""


def describe_result(trainer: Any, run: RunFile, report: PreflightReport) -> MethodFields:
    """Return no fields of run.json beyond the shared ones.

    Args:
        trainer: the trainer after the training.
        run: the run file.
        report: preflight.json.
    """
    return {}
