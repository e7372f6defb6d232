"""Direct preference optimization from a finished SFT adapter, with that SFT policy as the frozen reference.

TRL keeps the reference as a second adapter named "ref", cloned from the one it is given. Three gates hold that it is the SFT
adapter and stays so: "ref" exists, its digest is the SFT adapter's before and after, and before the first update the policy and
the reference agree (margin 0, loss ln 2). A killed run is taken up by opening the SFT adapter again and then the checkpoint:
opening a checkpoint as the model would make the half-trained policy the reference, without an error.
"""

from __future__ import annotations

import math
import shutil
import time
from pathlib import Path
from typing import Any

from curation.errors import command
from training.adapter import adapter_tensors, live_digest
from training.card import write_card
from training.config import BETA, RunFile, TrainingError, find_warnings
from training.data import Rows, describe_left_out, kept_rows, load_splits, open_snapshot, to_dataset
from training.folder import (
    ADAPTER,
    CHECKPOINTS,
    find_finished,
    relative,
    require_preflight,
    save_adapter,
    write_run,
)
from training.preflight import confirm_preflight
from training.progress import Say, Tracking, describe_tracking, logger_callbacks, run_callbacks
from training.resume import explain_failures, only_process, take_up, train_from
from training.sft import count_parameters, describe_run, parameters_text, require_saved

POLICY, REFERENCE = "default", "ref"
MARGIN_TOLERANCE = 1e-4
"""Policy and reference are the same numbers in the same dtype at step 1, so any true difference is far above this."""


def train_dpo(run: RunFile, *, say: Say = print) -> dict[str, Any]:
    """Train the adapter a run file describes and return run.json; a finished run is returned as it is."""
    if run.kind != "dpo" or run.sft_adapter is None:
        raise TrainingError(run.source.name, f"is of kind {run.kind}", command("train", run.kind, run.source))
    if done := find_finished(run, say=say):
        return done
    checked = require_preflight(run)
    with only_process(run.output):
        return find_finished(run, say=say) or _train(run, sft_adapter=run.sft_adapter, checked=checked, say=say)


def _train(run: RunFile, *, sft_adapter: Path, checked: dict[str, Any], say: Say) -> dict[str, Any]:
    started = time.monotonic()
    checkpoint = take_up(run.output, checked)
    trainer, tokenizer = build_trainer(run, checked=checked, say=say)
    sft = checked["sft_run"]
    check_reference(trainer.model, sft["adapter_digest"], when="before training")
    if checkpoint:
        say(f"Going on from {checkpoint.name}")
    with explain_failures(run.output, again=command("train", "dpo", run.source)):
        train_from(trainer, checkpoint)
        reference = check_reference(trainer.model, sft["adapter_digest"], when="after training")
        adapter = save_adapter(trainer.model, tokenizer, folder=run.output, base_id=checked["base"]["id"])
        result = describe_run(run, trainer.state, checked=checked, adapter_digest=require_saved(adapter, trainer.model))
        result |= describe_preference(trainer.state) | {
            "reference_digest": reference,
            "sft_run": relative(sft_adapter, run.output),
            "sft": {key: value for key, value in sft.items() if key not in ("path", "protected")},
            "parameters": count_parameters(trainer.model),
            "resumed_from": int(checkpoint.name.split("-")[1]) if checkpoint else None,
            "seconds": round(time.monotonic() - started, 1),
        }
        write_card(adapter, result, history=trainer.state.log_history)
        result = write_run(run.output, result)
    shutil.rmtree(run.output / CHECKPOINTS, ignore_errors=True)
    return result


def describe_preference(state: Any) -> dict[str, Any]:
    """How far the policy prefers the chosen completions more than its reference does, at the first step and the last."""
    margins = [entry["rewards/margins"] for entry in state.log_history if "rewards/margins" in entry]
    return {"first_margin": margins[0], "last_margin": margins[-1]}


def build_trainer(run: RunFile, *, checked: dict[str, Any], say: Say) -> tuple[Any, Any]:
    """Build the DPOTrainer over the verified pairs; returns it with its tokenizer."""
    from training.model import check_base, checked_dtype, load_tokenizer

    snapshot = open_snapshot(run, run.output / checked["snapshot"]["path"], kind="preference")
    if snapshot.manifest.digest.root != checked["snapshot"]["digest"]:
        raise TrainingError(str(snapshot.path), "is not the snapshot preflight looked at", command("train", "preflight", run.source))
    check_base(run.base_model, checked, mend=command("train", "preflight", run.source))
    confirm_preflight(run, snapshot, checked)
    for line in describe_left_out(checked["lengths"], max_length=run.optimizer.max_length):
        say(line)
    for line in find_warnings(run):
        say(f"Warning: {line}")
    say(f"Loading {checked['base']['id']}")
    tokenizer = load_tokenizer(run.base_model)
    splits = load_splits(snapshot)
    train, validation = (kept_rows(splits[split], checked["lengths"][split], system=run.system) for split in ("train", "validation"))
    dtype, tracking = checked_dtype(checked, say=say), describe_tracking(run, checked)
    trainer = make_trainer(run, tokenizer, train=train, validation=validation, say=say, tracking=tracking, dtype=dtype)
    say(parameters_text(count_parameters(trainer.model)))
    return trainer, tokenizer


def make_trainer(
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
