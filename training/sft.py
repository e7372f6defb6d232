"""Supervised fine-tuning: QLoRA on the completions of an instruction snapshot, with early stopping on its validation split.

Reads top to bottom; `dpo.py` is its sibling and the two are kept alike. Killed at any moment and started again, it goes on
from the last whole checkpoint and ends at the same adapter.
"""

from __future__ import annotations

import shutil
import time
from typing import Any

from curation.errors import command
from training.callbacks import Say, describe_tracking
from training.card import write_card
from training.checkpoints import explain_failures, only_process, take_up, train_from
from training.config import BETA, Lora, RunFile, TrainingError, find_warnings
from training.data import describe_left_out, kept_rows, load_splits, open_snapshot
from training.preflight import confirm_preflight
from training.run_folder import (
    CHECKPOINTS,
    SCHEMA,
    describe_environment,
    find_finished,
    relative,
    require_preflight,
    save_adapter,
    write_run,
)
from training.trainers import count_parameters, make_sft_trainer, parameters_text, require_saved


def train_sft(run: RunFile, *, say: Say = print) -> dict[str, Any]:
    """Train the adapter a run file describes and return run.json; a finished run is returned as it is."""
    if run.kind != "sft":
        raise TrainingError(run.source.name, f"is of kind {run.kind}", command("train", run.kind, run.source))
    if done := find_finished(run, say=say):
        return done
    checked = require_preflight(run)
    with only_process(run.output):
        return find_finished(run, say=say) or _train(run, checked=checked, say=say)


def _train(run: RunFile, *, checked: dict[str, Any], say: Say) -> dict[str, Any]:
    started = time.monotonic()
    checkpoint = take_up(run.output, checked)
    trainer, tokenizer = build_trainer(run, checked=checked, say=say)
    if checkpoint:
        say(f"Going on from {checkpoint.name}")
    with explain_failures(run.output, again=command("train", "sft", run.source)):
        train_from(trainer, checkpoint)
        adapter = save_adapter(trainer.model, tokenizer, folder=run.output, base_id=checked["base"]["id"])
        digest = require_saved(adapter, trainer.model)
        result = describe_run(run, trainer.state, checked=checked, adapter_digest=digest)
        result["parameters"] = count_parameters(trainer.model)
        result["resumed_from"] = int(checkpoint.name.split("-")[1]) if checkpoint else None
        result["seconds"] = round(time.monotonic() - started, 1)
        write_card(adapter, result, history=trainer.state.log_history)
        result = write_run(run.output, result)
    shutil.rmtree(run.output / CHECKPOINTS, ignore_errors=True)
    return result


def build_trainer(run: RunFile, *, checked: dict[str, Any], say: Say) -> tuple[Any, Any]:
    """Build the SFTTrainer over the verified rows; returns it with its tokenizer."""
    from training.model import check_base, checked_dtype, load_tokenizer

    snapshot = open_snapshot(run, run.output / checked["snapshot"]["path"], kind="instruction")
    if snapshot.manifest.digest.root != checked["snapshot"]["digest"]:
        raise TrainingError(str(snapshot.path), "is not the snapshot preflight looked at", command("train", "preflight", run.source))
    check_base(run.base_model, checked, mend=command("train", "preflight", run.source))
    confirm_preflight(run, snapshot, checked)
    for line in describe_left_out(checked["lengths"], max_length=run.optimizer.max_length):
        say(line)
    say(f"Loading {checked['base']['id']}")
    tokenizer = load_tokenizer(run.base_model)
    splits = load_splits(snapshot)
    train, validation = (kept_rows(splits[split], checked["lengths"][split], system=run.system) for split in ("train", "validation"))
    dtype, tracking = checked_dtype(checked, say=say), describe_tracking(run, checked)
    trainer = make_sft_trainer(run, tokenizer, train=train, validation=validation, say=say, tracking=tracking, dtype=dtype)
    say(parameters_text(count_parameters(trainer.model)))
    return trainer, tokenizer


def describe_settings(run: RunFile) -> dict[str, Any]:
    """What the run file asked for that shapes the adapter, defaults filled in."""
    lora = {} if run.kind == "dpo" else (run.lora or Lora()).model_dump(mode="json")
    chosen = {**run.optimizer.model_dump(mode="json"), "learning_rate": run.learning_rate, "seed": run.seed}
    if run.purpose is not None:
        chosen["purpose"] = run.purpose
    return {**lora, **chosen, "quantization": run.quantization.kind} | ({"beta": run.beta or BETA} if run.kind == "dpo" else {})


def describe_run(run: RunFile, state: Any, *, checked: dict[str, Any], adapter_digest: str) -> dict[str, Any]:
    """What run.json says of a finished run of either kind."""
    losses = [entry["loss"] for entry in state.log_history if "loss" in entry]
    evaluations = [(entry["eval_loss"], entry["step"]) for entry in state.log_history if "eval_loss" in entry]
    best = min(evaluations, default=(None, None))
    return {
        "schema": SCHEMA,
        "kind": run.kind,
        "steps": state.global_step,
        "first_loss": float(losses[0]) if losses else None,
        "last_loss": float(losses[-1]) if losses else None,
        "best_eval_loss": best[0],
        "best_step": best[1],
        "early_stopped_at": state.global_step if state.global_step < state.max_steps else None,
        "adapter": "adapter",
        "adapter_digest": adapter_digest,
        "snapshot": checked["snapshot"],
        "base": checked["base"],
        "use": run.use,
        "settings": describe_settings(run),
        "eval": {key: checked["eval"][key] for key in ("file", "sha256", "name", "weights")},
        "conditions": checked["conditions"],
        "chat": checked["chat"],
        "dtype": checked["dtype"],
        "licence_answers": run.licence_answers.model_dump(mode="json", exclude_defaults=True),
        "warnings": find_warnings(run),
        "rows": {
            split: {
                "rows": facts["rows"],
                "too_long": len(facts["too_long"]),
                "left_out": len(facts["left_out"]),
                "cut": len(set(facts["too_long"]) - set(facts["left_out"])),
            }
            for split, facts in checked["lengths"].items()
        },
        "config_digest": run.digest,
        "run_file": relative(run.source, run.output),
        **describe_environment(),
    }
