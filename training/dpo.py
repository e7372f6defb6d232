"""Direct preference optimization from a finished SFT adapter, with that SFT policy as the frozen reference.

TRL keeps the reference as a second adapter named "ref", cloned from the one it is given. Three gates hold that it is the SFT
adapter and stays so: "ref" exists, its digest is the SFT adapter's before and after, and before the first update the policy and
the reference agree (margin 0, loss ln 2). A killed run is taken up by opening the SFT adapter again and then the checkpoint:
opening a checkpoint as the model would make the half-trained policy the reference, without an error.
"""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import Any

from curation.errors import command
from training.callbacks import Say, describe_tracking
from training.card import write_card
from training.checkpoints import explain_failures, only_process, take_up, train_from
from training.config import RunFile, TrainingError, find_warnings
from training.data import describe_left_out, kept_rows, load_splits, open_snapshot
from training.preflight import confirm_preflight
from training.run_folder import CHECKPOINTS, find_finished, relative, require_preflight, save_adapter, write_run
from training.sft import describe_run
from training.trainers import check_reference, count_parameters, make_dpo_trainer, parameters_text, require_saved


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
    trainer = make_dpo_trainer(run, tokenizer, train=train, validation=validation, say=say, tracking=tracking, dtype=dtype)
    say(parameters_text(count_parameters(trainer.model)))
    return trainer, tokenizer
