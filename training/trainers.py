"""Build the SFT and the DPO trainer, for a run and for the rehearsal in preflight, and check DPO's reference."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from training.adapter import adapter_tensors, folder_digest, live_digest
from training.callbacks import Say, Tracking, logger_callbacks, run_callbacks
from training.config import BETA, Lora, RunFile, TrainingError
from training.data import Rows, to_dataset
from training.run_folder import ADAPTER


def make_sft_trainer(
    run: RunFile,
    tokenizer: Any,
    *,
    train: Rows,
    validation: Rows,
    say: Say,
    dtype: str | None = None,
    tracking: Tracking | None = None,
) -> Any:
    """Load the base model and build the SFTTrainer over these rows.

    Args:
        run: the run file; its base model, adapter, optimizer and output are used.
        tokenizer: the base model's.
        train: rows to train on.
        validation: rows the early stopping looks at.
        say: prints progress.
        dtype: data type to compute in; by default this machine's.
        tracking: name, project and facts for the run file's logger; None logs nothing there.
    """
    import torch
    from transformers import EarlyStoppingCallback, set_seed
    from trl import SFTConfig, SFTTrainer  # type: ignore[attr-defined]

    from training.model import cast_adapters, check_packing, load_base, resuming, training_arguments
    from training.targets import lora_config

    if run.threads:
        torch.set_num_threads(run.threads)
    set_seed(run.seed)
    model = load_base(run.base_model, run.quantization, packing=run.optimizer.packing, dtype=dtype)
    settings = training_arguments(run, folder=run.output, tracking=tracking)
    if run.optimizer.packing:
        check_packing(model, to_ids(tokenizer, train[0]))
    trainer = resuming(SFTTrainer)(
        model=model,
        args=SFTConfig(**settings, packing=run.optimizer.packing, completion_only_loss=True),
        train_dataset=to_dataset(train, kind="instruction"),
        eval_dataset=to_dataset(validation, kind="instruction"),
        processing_class=tokenizer,
        peft_config=lora_config(run.lora or Lora(), model),
        callbacks=[EarlyStoppingCallback(run.stopping.patience), *logger_callbacks(run, tracking), *run_callbacks(run.output, say)],
    )
    trainer.adapter_dtype = run.optimizer.adapter_dtype
    cast_adapters(trainer.model, run.optimizer.adapter_dtype)
    return trainer


def to_ids(tokenizer: Any, row: Mapping[str, Any]) -> list[int]:
    """Return the tokens of a row as a conversation."""
    text = tokenizer.apply_chat_template([*row["prompt"], *row["completion"]], tokenize=False)
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def count_parameters(model: Any) -> dict[str, int]:
    """Return how many parameters a PEFT model trains and how many it has; 4-bit weights count as what they stand for.

    DPO's frozen reference adapter is left out: it is no part of the result.
    """
    trainable, total = model.get_nb_trainable_parameters()
    reference = sum(p.numel() for name, p in model.named_parameters() if "lora_" in name and ".ref." in name)
    return {"trainable": int(trainable), "total": int(total - reference)}


def parameters_text(counted: Mapping[str, int]) -> str:
    """Return the count as a sentence, with the share."""
    share = counted["trainable"] / counted["total"]
    return f"Training {counted['trainable']:,} of {counted['total']:,} parameters ({share:.2%})"


def require_saved(adapter: Path, model: Any) -> str:
    """The digest of the adapter on disk, which must be that of the weights in memory."""
    digest = folder_digest(adapter)
    if digest != live_digest(model, "default"):
        raise TrainingError(str(adapter), "is not what was trained; the file on disk differs from the weights in memory", "check the disk")
    return digest


POLICY, REFERENCE = "default", "ref"

MARGIN_TOLERANCE = 1e-4
"""Policy and reference are the same numbers in the same dtype at step 1, so any true difference is far above this."""


def make_dpo_trainer(
    run: RunFile,
    tokenizer: Any,
    *,
    train: Rows,
    validation: Rows,
    say: Say,
    dtype: str | None = None,
    tracking: Tracking | None = None,
) -> Any:
    """Load the base model with the SFT adapter and build the DPOTrainer over these pairs.

    Args:
        run: the run file; its base model, SFT adapter, optimizer and output are used.
        tokenizer: the base model's.
        train: pairs to train on.
        validation: pairs the early stopping looks at.
        say: prints progress.
        dtype: data type to compute in; by default this machine's.
        tracking: name, project and facts for the run file's logger; None logs nothing there.
    """
    import torch
    from peft import PeftModel
    from transformers import EarlyStoppingCallback, set_seed
    from trl import DPOConfig, DPOTrainer  # type: ignore[attr-defined]

    from training.model import cast_adapters, load_base, resuming, training_arguments

    assert run.sft_adapter is not None
    if run.threads:
        torch.set_num_threads(run.threads)
    set_seed(run.seed)
    base = load_base(run.base_model, run.quantization, dtype=dtype)
    trainer = resuming(DPOTrainer)(
        model=PeftModel.from_pretrained(base, run.sft_adapter / ADAPTER, is_trainable=True),
        ref_model=None,
        args=DPOConfig(**training_arguments(run, folder=run.output, tracking=tracking), beta=run.beta or BETA),
        train_dataset=to_dataset(train, kind="preference"),
        eval_dataset=to_dataset(validation, kind="preference"),
        processing_class=tokenizer,
        callbacks=[EarlyStoppingCallback(run.stopping.patience), *logger_callbacks(run, tracking), *run_callbacks(run.output, say)],
    )
    trainer.add_callback(_first_step_gate(trainer))
    trainer.adapter_dtype = run.optimizer.adapter_dtype
    cast_adapters(trainer.model, run.optimizer.adapter_dtype)
    start_at_reference(trainer.model)
    return trainer


def start_at_reference(model: Any) -> None:
    """Give the policy the reference's exact weights: TRL has rounded the policy to bfloat16, and only the policy."""
    if REFERENCE in model.peft_config:
        reference = dict(adapter_tensors(model, REFERENCE))
        for name, parameter in adapter_tensors(model, POLICY):
            parameter.data.copy_(reference[name].data)


def check_reference(model: Any, sft_digest: str, *, when: str) -> str:
    """The digest of the live reference weights, which must be the SFT adapter's."""
    if REFERENCE not in model.peft_config:
        raise TrainingError("reference", f"no adapter named {REFERENCE!r} {when}; the base model would be the reference", "report this")
    digest = live_digest(model, REFERENCE)
    if digest != sft_digest:
        raise TrainingError("reference", f"is not the SFT adapter {when} ({digest[:12]}, not {sft_digest[:12]})", "train the run again")
    return digest


def check_first_step(*, loss: float, margin: float) -> None:
    """Refuse a first step that shows a difference: before the first update the policy is the reference.

    Args:
        loss: the preference loss alone, without a router's auxiliary loss; it must be ln 2.
        margin: how much more the policy prefers the chosen completion than the reference does; it must be 0.
    """
    if abs(margin) > MARGIN_TOLERANCE or abs(loss - math.log(2)) > MARGIN_TOLERANCE:
        fact = (
            f"the first step has margin {margin:.6f} and loss {loss:.6f}, not 0 and {math.log(2):.6f}: the reference is not the SFT policy"
        )
        raise TrainingError("reference", fact, "train the run again from the SFT run folder")


def _first_step_gate(trainer: Any) -> Any:
    from transformers import TrainerCallback

    class FirstStep(TrainerCallback):
        def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any) -> None:
            if state.global_step == 1 and logs and "loss" in logs:
                # A mixture-of-experts model adds its router's load balancing to the loss; it says nothing of the reference.
                routing = trainer.router_aux_loss_coef * float(logs["aux_loss"]) if trainer.aux_loss_enabled else 0.0
                check_first_step(loss=float(logs["loss"]) - routing, margin=float(logs["rewards/margins"]))

    return FirstStep()
