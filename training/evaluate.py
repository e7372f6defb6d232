"""Measure an adapter, or the base model, on a protected set; numbers with intervals, differences with a verdict.

`metrics.py` says what is measured. Results are kept in eval.json with the digests they belong to; the base model is measured once
for all runs beside it.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from curation.errors import command
from curation.records import canonical_json
from training.config import RunFile, TrainingError
from training.data import check_protected, file_sha256, open_snapshot, read_rows, resolve_snapshot
from training.folder import ADAPTER, EVAL, read_json, require_finished, require_preflight, write_json
from training.intervals import compare, measure
from training.items import EvalItem, read_eval_items
from training.progress import Say

SCHEMA = 3


def evaluate_run(run: RunFile, *, base: bool = False, say: Say = print) -> dict[str, Any]:
    """Measure a run's adapter (or its base model) and compare it with what it started from; cached by digest."""
    from training.card import renew_card
    from training.model import check_base

    checked = require_preflight(run)
    if file_sha256(run.eval.file) != checked["eval"]["sha256"]:
        raise TrainingError("eval.file", "is not the file preflight looked at", command("train", "preflight", run.source))
    check_base(run.base_model, checked, mend="name the base model the run had; an adapter fits no other")
    done = None if base else require_finished(run)
    key = evaluation_key(run, checked)
    file = base_file(run, key) if base else run.output / EVAL
    subject = checked["base"]["digest"] if done is None else done["adapter_digest"]
    result = find_cached(file, key=key, subject=subject)
    if result is None:
        result = {
            "schema": SCHEMA,
            "subject": "base" if base else run.kind,
            "subject_digest": subject,
            "key": key,
            "file": {"name": run.eval.file.name, "sha256": checked["eval"]["sha256"]},
            **measure_subject(run, checked=checked, base=base, say=say),
        }
        write_json(file, result)
    result["against"] = {} if base else compare_with(run, result, checked=checked)
    write_json(file, result)
    if done is not None:
        renew_card(run.output / ADAPTER, done, evaluation=result, say=say)
    return result


def evaluation_key(run: RunFile, checked: Mapping[str, Any]) -> str:
    """What a measurement depends on besides its subject: two results with one key may be compared."""
    from training.model import compute_dtype

    settings = run.eval
    parts = {
        "schema": SCHEMA,
        "file": checked["eval"]["sha256"],
        "n": settings.n,
        "fields": [settings.question, settings.answer, settings.pattern],
        "max_new_tokens": settings.max_new_tokens,
        "table": file_sha256(settings.table) if settings.table else "",
        "preference": resolve_snapshot(settings.preference_snapshot).name if settings.preference_snapshot else "",
        "base": checked["base"]["digest"],
        "quantization": run.quantization.model_dump(),
        "system": run.system,
        "dtype": compute_dtype(),
    }
    return hashlib.sha256(canonical_json(parts)).hexdigest()


def base_file(run: RunFile, key: str) -> Path:
    """Where the base model's results are kept: beside the run folders, by key."""
    return run.output.parent / f"base-eval-{key[:12]}.json"


def find_cached(file: Path, *, key: str, subject: str) -> dict[str, Any] | None:
    """An earlier result for exactly this subject and these settings."""
    if not file.is_file():
        return None
    result = read_json(file)
    return result if result["key"] == key and result["subject_digest"] == subject else None


def measure_subject(run: RunFile, *, checked: Mapping[str, Any], base: bool, say: Say) -> dict[str, Any]:
    """Load the model once and take every metric; per-item values are kept, so that differences can be paired."""
    import torch

    from training.metrics import Subject, measure_likelihoods, measure_pairs, read_answers, read_billable, write_out
    from training.model import load_for_reading, load_tokenizer

    started = time.monotonic()
    if run.threads:
        torch.set_num_threads(run.threads)
    items, system = load_items(run, checked)
    billable, pairs = read_billable(run.eval.table), load_pairs(run)
    say(f"Loading {checked['base']['id']}")
    model = load_for_reading(run.base_model, run.quantization, adapter=None if base else run.output / ADAPTER)
    subject = Subject(model, load_tokenizer(run.base_model), system=system, batch=run.eval.batch_size, merge=run.system == "merge")
    values = measure_likelihoods(subject, items) | measure_pairs(subject, pairs)
    say(f"  likelihoods of {len(items)} items: {time.monotonic() - started:.0f} s")
    answers = write_out(subject, items, max_new_tokens=run.eval.max_new_tokens)
    say(f"  answers to {len(items)} items: {time.monotonic() - started:.0f} s")
    values |= read_answers(answers, items, billable=billable, pattern=run.eval.pattern)
    return {
        "metrics": {name: measure(row).as_dict() for name, row in values.items()},
        "items": values,
        "answers": [{"question": i.question, "reference": i.answer, "answer": text} for i, text in zip(items, answers, strict=True)],
        "seconds": round(time.monotonic() - started, 1),
    }


def load_items(run: RunFile, checked: Mapping[str, Any]) -> tuple[list[EvalItem], str | None]:
    """The evaluation items, and the system message of the rows that were trained on, which the questions are asked with."""
    snapshot = open_snapshot(run, run.output / checked["snapshot"]["path"], kind=checked["snapshot"]["kind"])
    protected = check_protected(run.eval.file, snapshot.manifest.protected, of="the snapshot")
    first = read_rows(snapshot, "train")[0]["prompt"][0]
    return read_eval_items(run.eval, protected=protected), first["content"] if first["role"] == "system" else None


def load_pairs(run: RunFile) -> list[dict[str, Any]]:
    """The test split of the preference snapshot the run file names; nothing where it names none."""
    if run.eval.preference_snapshot is None:
        return []
    snapshot = open_snapshot(run, resolve_snapshot(run.eval.preference_snapshot), kind="preference")
    return read_rows(snapshot, "test", system=run.system)


def compare_with(run: RunFile, result: Mapping[str, Any], *, checked: Mapping[str, Any]) -> dict[str, Any]:
    """Paired differences to the base model and, for dpo, to the SFT adapter; a missing measurement is left out."""
    key = result["key"]
    others = {"base": (base_file(run, key), checked["base"]["digest"])}
    if run.sft_adapter is not None:
        others["sft"] = (run.sft_adapter / EVAL, checked["sft_run"]["adapter_digest"])
    against = {}
    for name, (file, subject) in others.items():
        if other := find_cached(file, key=key, subject=subject):
            against[name] = {m: compare(row, other["items"][m]).as_dict() for m, row in result["items"].items() if m in other["items"]}
    return against


def result_text(result: Mapping[str, Any], *, target: Path, sft_run: Path | None = None) -> str:
    """The result as a short table: value, interval, and what changed."""
    lines = [f"{result['subject']}, {result['file']['name']}, {result['seconds']:.0f} s"]
    for name, metric in result["metrics"].items():
        text = f"  {name:<15} {metric['value']:.3f}  [{metric['low']:.3f}, {metric['high']:.3f}]  n={metric['n']}"
        for other, differences in result["against"].items():
            if name in differences:
                found = differences[name]
                text += f"   {found['difference']:+.3f} on {other}: {found['verdict']}"
        lines.append(text)
    small = min(metric["n"] for name, metric in result["metrics"].items() if name != "preference_test")  # its rows are the snapshot's
    if small < 100:
        lines.append(f"  with {small} items the intervals are wide; 100 or more tell more (eval.n in the run file)")
    if result["subject"] != "base" and "base" not in result["against"]:
        lines.append(
            f"The base model was not measured with these settings. Next: {command('train', 'eval', target, '--base')}, then this again"
        )
    if sft_run is not None and result["subject"] == "dpo" and "sft" not in result["against"]:
        lines.append(f"The SFT adapter was not measured with these settings. Next: {command('train', 'eval', sft_run)}, then this again")
    return "\n".join(lines)
