"""Everything that can be known about a run before a model is loaded, written down in preflight.json.

Cheap checks first. What it accepts of snapshot, base model, SFT adapter and evaluation file is recorded with its digest, and training
and evaluation ask for that digest again.
"""

from __future__ import annotations

import importlib.util
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from curation.errors import command
from training.adapter import read_settings
from training.callbacks import Say, has_wandb_login, wandb_host
from training.chat import Rendered, merge_system
from training.checkpoints import check_origin, only_process
from training.config import Lora, RunFile, TrainingError, find_warnings
from training.data import (
    KIND_OF,
    LengthStats,
    check_protected,
    check_signature,
    describe_lengths,
    name_rows,
    open_recorded,
    open_snapshot,
    read_rows,
    render_rows,
    resolve_snapshot,
)
from training.eval_items import read_eval_items, shape_of
from training.license import BaseModelRecord, check_use, find_base_record
from training.memory import GIB, available_memory, checkpoint_bytes, estimate_run, read_limits, read_shape
from training.run_folder import ADAPTER, CONFIG, PREFLIGHT, SCHEMA, find_finished, read_json, relative, require_run, write_json
from training.targets import refuse_unknown_targets

if TYPE_CHECKING:
    from curation.snapshot import Snapshot


def preflight(run: RunFile, *, say: Say = print) -> dict[str, Any]:
    """Check a run and write its preflight.json; raises the first refusal."""
    from training.model import compute_dtype
    from training.rehearsal import rehearse

    if done := find_finished(run):
        refuse_newer_snapshot(run, done)
        return read_json(run.output / PREFLIGHT)
    base = find_base_record(run.base_model, declared=run.base_licence)
    check_licences(run, base, None)
    snapshot = open_snapshot(run, resolve_snapshot(run.snapshot), kind=KIND_OF[run.kind])
    check_licences(run, base, snapshot)
    refuse_missing_logger(run)
    evaluation = describe_eval(run, snapshot)
    base_facts = {**asdict(base), "digest": _base_digest(run.base_model, say=say)}
    sft = describe_sft(run, base_digest=base_facts["digest"])
    if sft is not None:
        check_sft_protected(run, sft, sha256=evaluation["sha256"])
    conditions = check_licences(run, base, snapshot, sft)
    refuse_unknown_targets(run)
    lengths, sample = describe_rows(run, snapshot, say=say)
    longest = run.optimizer.max_length if run.optimizer.packing else max(split["longest"] for split in lengths.values())
    dtype = compute_dtype()
    memory, disk = describe_memory(run, longest=longest, dtype=dtype), describe_disk(run)
    result = {
        "schema": SCHEMA,
        "kind": run.kind,
        "config_digest": run.digest,
        "run_file_folder": relative(run.source.parent, run.output),
        "snapshot": describe_snapshot(run, snapshot),
        "base": base_facts,
        "use": run.use,
        "conditions": conditions,
        "warnings": find_warnings(run),
        "eval": evaluation,
        "sft_run": sft,
        "chat": describe_chat(run),
        "dtype": dtype,
        "lengths": lengths,
        "memory": memory,
        "disk": disk,
        "rehearsal": rehearse(run, sample, dtype=dtype, say=say),
    }
    with only_process(run.output):
        check_origin(run.output, result)
        shutil.copyfile(run.source, run.output / CONFIG)
        write_json(run.output / PREFLIGHT, result)
    return result


def refuse_newer_snapshot(run: RunFile, done: dict[str, Any]) -> None:
    """A finished run is never trained on again, so a name that now means other rows needs another output."""
    now, then = resolve_snapshot(run.snapshot).name, Path(done["snapshot"]["path"]).name
    if now != then:
        raise TrainingError(
            str(run.output), f"holds a finished run on {then}; the run file now means {now}", "name another output in the run file"
        )


def describe_eval(run: RunFile, snapshot: Snapshot) -> dict[str, Any]:
    """The evaluation file, checked against the protected sets and read; its table; and the preference snapshot, if one is named."""
    from training.metrics import read_billable

    protected = check_protected(run.eval.file, snapshot.manifest.protected, of="the snapshot")
    items = read_eval_items(run.eval, protected=protected)
    if run.eval.table is not None and not run.eval.table.is_file():
        raise TrainingError("eval.table", f"{run.eval.table} does not exist", "name a Parquet file with the columns code and billable")
    read_billable(run.eval.table)
    pairs = None
    if run.eval.preference_snapshot is not None:
        tested = open_snapshot(run, resolve_snapshot(run.eval.preference_snapshot), kind="preference")
        pairs = {"digest": tested.manifest.digest.root, "test_rows": len(read_rows(tested, "test"))}
    facts = {"file": run.eval.file.name, "sha256": protected.sha256, "name": protected.name}
    facts["weights"] = run.eval.weights
    return facts | {"items": len(items), "form": shape_of(items), "preference_snapshot": pairs}


def check_licences(run: RunFile, base: BaseModelRecord, snapshot: Snapshot | None, sft: dict[str, Any] | None = None) -> dict[str, str]:
    """Check every licence against the declared use and return the conditions that come with it, by what they apply to.

    Args:
        run: its `use` is what is checked.
        base: the base model's record.
        snapshot: the rows; None to check the base model alone.
        sft: what `describe_sft` says of the SFT run's rows.
    """
    held = {"base model": (base.licence, f"base model {base.id}")}
    if snapshot is not None and snapshot.manifest.licence:
        held["snapshot"] = (snapshot.manifest.licence, f"snapshot {snapshot.path.name}")
    if sft is not None and sft["licence"]:
        held["SFT snapshot"] = (sft["licence"], f"SFT snapshot {sft['name']} v{sft['version']}")
    found = {key: check_use(licence, run.use, of=of, answers=run.licence_answers) for key, (licence, of) in held.items()}
    return {key: text for key, text in found.items() if text}


def confirm_preflight(run: RunFile, snapshot: Snapshot, checked: dict[str, Any]) -> None:
    """Refuse a preflight.json that does not say what the verified manifests, the licences and the SFT run say.

    What it says goes into run.json and onto the card, and the file itself is not signed.
    """
    base = find_base_record(run.base_model, declared=run.base_licence)
    sft = describe_sft(run, base_digest=checked["base"]["digest"])
    if sft is not None and sft["adapter_digest"] != (checked["sft_run"] or {}).get("adapter_digest"):
        fact = "was trained again since preflight looked at it"
        raise TrainingError(str(run.sft_adapter), fact, command("train", "preflight", run.source))
    found = {
        "snapshot": describe_snapshot(run, snapshot),
        "base": {**asdict(base), "digest": checked["base"]["digest"]},
        "sft_run": sft,
        "conditions": check_licences(run, base, snapshot, sft),
    }
    if other := [key for key, value in found.items() if value != checked[key]]:
        fact = f"does not match what was checked now ({', '.join(other)})"
        raise TrainingError(str(run.output / PREFLIGHT), fact, command("train", "preflight", run.source))


@dataclass(frozen=True)
class SftRun:
    """The SFT run a DPO run starts from, checked again."""

    done: dict[str, Any]
    """Its run.json."""
    snapshot: Snapshot
    """The snapshot it was trained on; what it says counts, not what run.json says of it."""
    signer: str | None
    """Who signed the adapter; None if nobody did."""


def require_sft(run: RunFile, folder: Path, *, base_digest: str) -> SftRun:
    """Check the SFT run again: seal, adapter, signature where it has one, base model, and the snapshot it was trained on.

    Raises:
        TrainingError: the run, the adapter or its signature was changed, or the base model is another one.
        SnapshotError: the snapshot is not signed by a trusted key any more, or was revoked.
    """
    sft = require_run(folder, kind="sft")
    signer = check_signature(run, folder / ADAPTER)
    if sft["base"]["digest"] != base_digest:
        fact = f"was trained on another base model ({sft['base']['id']}, {sft['base']['digest'][:12]}) than base_model ({base_digest[:12]})"
        raise TrainingError(f"sft_adapter {folder}", fact, "name the base model the SFT run had")
    return SftRun(sft, open_recorded(run, folder, sft), signer)


def describe_sft(run: RunFile, *, base_digest: str) -> dict[str, Any] | None:
    """Describe the SFT run a DPO run starts from, checked again; None for sft.

    The adapter was trained on its rows too, so the same conditions apply to them. They are read from the verified manifest.
    """
    if run.sft_adapter is None:
        return None
    sft = require_sft(run, run.sft_adapter, base_digest=base_digest)
    manifest = sft.snapshot.manifest
    if (begun := sft.done["chat"]["system"]) != run.system:
        fact = f"is {run.system} here and {begun} in the SFT run, so its adapter knows other prompts"
        raise TrainingError("system", fact, f"set system: {begun}")
    return {
        "path": relative(run.sft_adapter, run.output),
        "adapter_digest": sft.done["adapter_digest"],
        "adapter_signer": sft.signer,
        "name": manifest.name,
        "version": manifest.version,
        "digest": manifest.digest.root,
        "licence": manifest.licence,
        "simulated_review": manifest.review.simulated,
        "review": manifest.review.mode,
        "protected": [{"name": item.name, "sha256": item.sha256} for item in manifest.protected],
    }


def check_sft_protected(run: RunFile, sft: dict[str, Any], *, sha256: str) -> None:
    """Refuse an evaluation file that the SFT rows were not screened against; they are in the adapter too."""
    if sha256 not in [item["sha256"] for item in sft["protected"]]:
        name = f"the SFT run's snapshot {sft['name']} v{sft['version']}"
        fact = f"{run.eval.file.name} is not among the protected sets of {name}, so the SFT rows were not checked for its items"
        raise TrainingError("eval.file", fact, "evaluate on a set that both snapshots were screened against")


def describe_chat(run: RunFile) -> dict[str, Any]:
    """Describe how the chat template is used: the system message, and the token that ends an answer."""
    from training.chat import find_end_of_turn
    from training.model import load_tokenizer

    tokenizer = load_tokenizer(run.base_model)
    end = find_end_of_turn(tokenizer)
    return {"system": run.system, "end_of_turn": None if end is None else {"id": end, "token": tokenizer.convert_ids_to_tokens(end)}}


def describe_rows(run: RunFile, snapshot: Snapshot, *, say: Say) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Render the train and validation rows as the trainer does; refuse a split that loses too much or everything.

    Returns:
        What is known of each split, and some rows to rehearse with.

    Raises:
        TrainingError: too many rows are too long or unusable with the chat template, a split is empty, or a token is not in the
            model's vocabulary.
    """
    from training.model import load_tokenizer
    from training.rehearsal import pick_rows

    tokenizer, facts, limits = load_tokenizer(run.base_model), {}, read_limits(run.base_model)
    sample: list[dict[str, Any]] = []
    for split in ("train", "validation"):
        rows = read_rows(snapshot, split, system=run.system)  # type: ignore[arg-type]
        if not rows:
            raise TrainingError(str(snapshot.path), f"its {split} split is empty", "make a snapshot with more rows")
        if len(rows) > 20_000:
            say(f"Counting the tokens of {len(rows):,} {split} rows")
        rendered = render_rows(rows, tokenizer, kind=KIND_OF[run.kind])
        lengths = describe_lengths(rows, rendered, max_length=run.optimizer.max_length, too_long=run.optimizer.too_long)
        refuse_losses(run, split, lengths, rows=rows, rendered=rendered, tokenizer=tokenizer)
        if (largest := max(text.largest for text in rendered)) >= limits.vocabulary:
            fact = f"its tokenizer gives token {largest} and the model has {limits.vocabulary} tokens; they do not belong together"
            raise TrainingError(f"base_model {run.base_model}", fact, "copy the tokenizer files of this very checkpoint into the folder")
        longest = min(lengths.longest, run.optimizer.max_length)
        if limits.positions is not None and longest > limits.positions:
            fact = f"{longest} tokens in a row of the {split} split, and the base model has {limits.positions} positions"
            raise TrainingError("optimizer.max_length", fact, f"set optimizer.max_length: {limits.positions}")
        facts[split] = asdict(lengths)
        sample = sample or pick_rows(rows, rendered, set(lengths.left_out))
    return facts, sample


def refuse_losses(
    run: RunFile, split: str, lengths: LengthStats, *, rows: list[dict[str, Any]], rendered: list[Rendered], tokenizer: Any
) -> None:
    """Refuse a split that loses more than `optimizer.max_left_out` of its rows, or all of them.

    Args:
        run: the run file.
        split: the split's name.
        lengths: what `describe_lengths` says of it.
        rows: its rows.
        rendered: the same rows as the trainer sees them.
        tokenizer: the base model's.
    """
    gone = set(lengths.left_out)
    if len(gone) <= run.optimizer.max_left_out * len(rows) and len(gone) < len(rows):
        return
    if lengths.faults:
        reason, names = max(lengths.faults.items(), key=lambda item: len(item[1]))
        row = next(row for row in rows if str(row["id"]) == names[0])
        fact = f"{len(names)} of {len(rows)} {split} rows cannot be trained on: {reason}: {name_rows(names)}"
        raise TrainingError(f"chat template of {run.base_model}", fact, _template_advice(run, row, tokenizer))
    longest, prompts = max(text.whole for text in rendered), sum(text.prompt >= run.optimizer.max_length for text in rendered)
    fact = (
        f"{len(gone)} of {len(rows)} {split} rows ({len(gone) / len(rows):.0%}) would be left out: longer than "
        f"{run.optimizer.max_length} tokens (longest {longest}; {prompts} by their prompt alone): {name_rows(lengths.left_out)}"
    )
    again = f"set optimizer.max_length: {longest}"
    if len(gone) < len(rows):
        again += ", or accept the loss with optimizer.max_left_out, or train on their beginnings with optimizer.too_long: cut"
    raise TrainingError("optimizer.max_length", fact, again)


def _template_advice(run: RunFile, row: dict[str, Any], tokenizer: Any) -> str:
    """The next step for a row that the template makes unusable: merging its system message, where that helps."""
    merged = {**row, "prompt": merge_system(row["prompt"])}
    if run.system == "keep" and merged["prompt"] != row["prompt"]:
        [again] = render_rows([merged], tokenizer, kind=KIND_OF[run.kind])
        if not again.fault:
            return "set system: merge in the run file, which puts the system message in front of the first user message"
    return "correct chat_template.jinja in the base model's folder, or take another base model"


def describe_memory(run: RunFile, *, longest: int, dtype: str) -> dict[str, Any]:
    """Return the estimate with what is free; a run that cannot fit is refused.

    Args:
        run: the run file.
        longest: tokens of the longest row.
        dtype: data type to compute in.
    """
    gpu, shape = free_gpu_memory(), read_shape(run.base_model)
    estimate = estimate_run(run, shape=shape, lora=_lora_shape(run), longest=longest, on_gpu=gpu is not None, dtype=dtype)
    available = gpu if gpu is not None else available_memory()
    facts = {"device": "cuda" if gpu is not None else "cpu", **estimate.as_gib(), "available": round(available / GIB, 2)}
    if estimate.total > available:
        fact = f"needs about {facts['total']} GiB and {facts['available']} GiB are free"
        raise TrainingError("memory", fact, "lower optimizer.batch_size or optimizer.max_length in the run file")
    return facts


def describe_disk(run: RunFile) -> dict[str, float]:
    """What checkpoints and adapter take beside what is free; a run that would fill the disk is refused."""
    home = next(parent for parent in (run.output, *run.output.parents) if parent.exists())
    needed = checkpoint_bytes(run, shape=read_shape(run.base_model), lora=_lora_shape(run), on_gpu=free_gpu_memory() is not None)
    free = shutil.disk_usage(home).free
    if needed > free:
        fact = f"checkpoints and adapter take about {-(-needed // 1_000_000)} MB and {free // 1_000_000} MB are free"
        raise TrainingError(str(run.output), fact, "make room, or name an output elsewhere")
    return {"needed": round(needed / GIB, 3), "available": round(free / GIB, 2)}


def refuse_missing_logger(run: RunFile) -> None:
    """Refuse a logger that is not installed or not logged in; the libraries notice only when the training begins."""
    if run.logger != "none" and importlib.util.find_spec(run.logger) is None:
        raise TrainingError("logger", f"the package {run.logger} is not installed", f"pip install {run.logger}, or set logger: none")
    if run.logger == "wandb" and not has_wandb_login():
        host = wandb_host()
        fact = f"W&B is not logged in: WANDB_API_KEY is not set and there is no entry for {host} in .netrc"
        raise TrainingError("logger", fact, "wandb login, or export WANDB_MODE=offline, or set logger: none")


def describe_snapshot(run: RunFile, snapshot: Snapshot) -> dict[str, Any]:
    """The rows' name, digest, signer, licence, and what they were screened against."""
    manifest = snapshot.manifest
    return {
        "name": manifest.name,
        "version": manifest.version,
        "kind": manifest.kind,
        "digest": manifest.digest.root,
        "path": relative(snapshot.path, run.output),
        "signer": snapshot.signer,
        "licence": manifest.licence,
        "teacher": manifest.models.teacher,
        "review": manifest.review.mode,
        "intended_use": manifest.intended_use,
        "rows": {split: facts.rows for split, facts in manifest.splits.items()},
        "protected": [{"name": item.name, "sha256": item.sha256} for item in manifest.protected],
        "simulated_review": manifest.review.simulated,
    }


def _lora_shape(run: RunFile) -> dict[str, Any]:
    if run.sft_adapter is None:
        lora = run.lora or Lora()
        return {"r": lora.r, "targets": lora.targets, "dropout": lora.dropout}
    config = read_settings(run.sft_adapter / ADAPTER)
    return {"r": config["r"], "targets": tuple(config["target_modules"])}


def _base_digest(folder: Path, *, say: Say) -> str:
    from training.model import base_digest

    size = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    if size > 4 * GIB:
        say(f"Hashing {size / GIB:.0f} GiB of base model")
    return base_digest(folder)


def free_gpu_memory() -> int | None:
    """Return the free bytes of the first CUDA device; None without one."""
    import torch

    return int(torch.cuda.mem_get_info(0)[0]) if torch.cuda.is_available() else None
