"""Everything that can be known about a run before a model is loaded, written down in preflight.json.

Cheap checks first. Whatever it accepts is recorded with its digest, and training checks that digest again.
"""

from __future__ import annotations

import importlib.util
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from training.adapter import WEIGHTS
from training.config import Lora, RunFile, TrainingError
from training.data import (
    KIND_OF,
    check_protected,
    describe_lengths,
    open_snapshot,
    read_eval_items,
    read_rows,
    resolve_snapshot,
    token_lengths,
)
from training.folder import ADAPTER, CONFIG, PREFLIGHT, find_finished, read_json, relative, write_json
from training.licence import check_use, find_base_record
from training.memory import GIB, available_memory, estimate_run, read_shape

if TYPE_CHECKING:
    from curation.snapshot import Snapshot


def preflight(run: RunFile) -> dict[str, Any]:
    """Check a run and write its preflight.json; raises the first refusal."""
    if find_finished(run):
        return read_json(run.output / PREFLIGHT)
    base = find_base_record(run.base_model, declared=run.base_licence)
    conditions = {"base model": check_use(base.licence, run.use, of=f"base model {base.id}")}
    snapshot = open_snapshot(run, resolve_snapshot(run.snapshot), kind=KIND_OF[run.kind])
    if snapshot.manifest.licence:
        conditions["snapshot"] = check_use(snapshot.manifest.licence, run.use, of=f"snapshot {snapshot.path.name}")
    refuse_packing(run, gpu=_gpu())
    evaluation = describe_eval(run, snapshot)
    base_facts = {**asdict(base), "digest": _base_digest(run.base_model)}
    sft = _describe_sft(run, base_facts["digest"])
    lengths = describe_rows(run, snapshot)
    memory = describe_memory(run, longest=max(split["longest"] for split in lengths.values()))
    result = {
        "schema": 1,
        "kind": run.kind,
        "config_digest": run.digest,
        "run_file_folder": relative(run.source.parent, run.output),
        "snapshot": _describe_snapshot(run, snapshot),
        "base": base_facts,
        "use": run.use,
        "conditions": {key: text for key, text in conditions.items() if text},
        "eval": evaluation,
        "sft_run": sft,
        "lengths": lengths,
        "memory": memory,
    }
    run.output.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(run.source, run.output / CONFIG)
    write_json(run.output / PREFLIGHT, result)
    return result


def describe_eval(run: RunFile, snapshot: Snapshot) -> dict[str, Any]:
    """The evaluation file, checked against the protected sets; and the preference snapshot, if one is named."""
    facts: dict[str, Any] = {"file": run.eval.file.name, "sha256": check_protected(run.eval.file, snapshot)}
    facts["items"] = len(read_eval_items(run.eval.file, n=run.eval.n))
    if run.eval.table is not None and not run.eval.table.is_file():
        raise TrainingError("eval.table", f"{run.eval.table} does not exist", "name a Parquet file with the columns code and billable")
    return facts


def describe_rows(run: RunFile, snapshot: Snapshot) -> dict[str, Any]:
    """Token lengths of the train and validation rows; neither split may be empty."""
    from training.model import load_tokenizer

    tokenizer, facts = load_tokenizer(run.base_model), {}
    for split in ("train", "validation"):
        rows = read_rows(snapshot, split)  # type: ignore[arg-type]
        if not rows:
            raise TrainingError(str(snapshot.path), f"its {split} split is empty", "make a snapshot with more rows")
        lengths = token_lengths(rows, tokenizer, kind=KIND_OF[run.kind])
        facts[split] = asdict(describe_lengths(rows, lengths, max_length=run.optimizer.max_length))
    return facts


def describe_memory(run: RunFile, *, longest: int) -> dict[str, Any]:
    """The estimate beside what is there; a run that cannot fit is refused."""
    gpu = _gpu()
    estimate = estimate_run(run, shape=read_shape(run.base_model), lora=_lora_shape(run), longest=longest, on_gpu=gpu is not None)
    available = gpu if gpu is not None else available_memory()
    facts = {"device": "cuda" if gpu is not None else "cpu", **estimate.as_gib(), "available": round(available / GIB, 2)}
    if estimate.total > available:
        fact = f"needs about {facts['total']} GiB and {facts['available']} GiB are free"
        raise TrainingError("memory", fact, "lower optimizer.batch_size or optimizer.max_length in the run file")
    return facts


def refuse_packing(run: RunFile, *, gpu: int | None) -> None:
    """Packed rows are kept apart by FlashAttention only; elsewhere each row would read the ones before it."""
    if run.optimizer.packing and (gpu is None or importlib.util.find_spec("flash_attn") is None):
        raise TrainingError(
            "optimizer.packing", "needs FlashAttention on a GPU; without it packed rows see one another", "set packing: false"
        )


def _describe_snapshot(run: RunFile, snapshot: Snapshot) -> dict[str, Any]:
    manifest = snapshot.manifest
    return {
        "name": manifest.name,
        "version": manifest.version,
        "kind": manifest.kind,
        "digest": manifest.digest.root,
        "path": relative(snapshot.path, run.output),
        "signer": snapshot.signer,
        "rows": {split: facts.rows for split, facts in manifest.splits.items()},
        "simulated_review": manifest.review.simulated,
    }


def _describe_sft(run: RunFile, base_digest: str) -> dict[str, Any] | None:
    if run.sft_adapter is None:
        return None
    from training.dpo import require_sft

    sft = require_sft(run.sft_adapter, base_digest=base_digest)
    return {"path": relative(run.sft_adapter, run.output), "adapter_digest": sft["adapter_digest"], "snapshot": sft["snapshot"]["digest"]}


def _lora_shape(run: RunFile) -> dict[str, Any]:
    if run.sft_adapter is None:
        lora = run.lora or Lora()
        return {"r": lora.r, "targets": lora.targets}
    config = read_json((run.sft_adapter / ADAPTER / WEIGHTS).with_name("adapter_config.json"))
    return {"r": config["r"], "targets": tuple(config["target_modules"])}


def _base_digest(folder: Path) -> str:
    from training.model import base_digest

    return base_digest(folder)


def _gpu() -> int | None:
    """Free bytes of the first CUDA device, or None."""
    import torch

    return int(torch.cuda.mem_get_info(0)[0]) if torch.cuda.is_available() else None
