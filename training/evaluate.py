"""Measure an adapter, or the base model, on a protected set; numbers with intervals, differences with a verdict.

`metrics.py` says what is measured. The base model's weights are loaded as they are served, in 16 bits, unless `eval.weights` says nf4.
Results are kept with the digests they belong to: eval.json for the set that preflight looked at, eval-DIGEST.json for any other set, and
base-eval-KEY.json in the parent folder for the base model, which is measured once for all runs.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import ValidationError

from curation.errors import command
from curation.records import canonical_json
from training.callbacks import Say
from training.config import EvalSet, Quantization, RunFile, RunFileError, TrainingError
from training.data import check_protected, file_sha256, open_recorded, open_snapshot, read_rows, resolve_snapshot
from training.eval_items import EvalItem, read_eval_items
from training.memory import GIB, available_memory
from training.metrics import LEAST_DIVERSITY
from training.preflight import free_gpu_memory, require_sft
from training.run_folder import ADAPTER, EVAL, read_evaluations, read_json, require_finished, require_preflight, write_json
from training.statistics import compare, measure

if TYPE_CHECKING:
    from curation.snapshot import ProtectedSet

SCHEMA = 4
"""Since 4 the base model is measured in 16 bits by default and the answers' diversity is counted."""


def evaluate_run(run: RunFile, *, base: bool = False, say: Say = print) -> dict[str, Any]:
    """Measure a run's adapter (or its base model) and compare it with what it started from; cached by digest."""
    from training.card import renew_card
    from training.model import check_base

    checked = require_preflight(run)
    done = None if base else require_finished(run)
    protected = check_evaluation_set(run, checked, done)
    check_base(run.base_model, checked, mend="name the base model the run had; an adapter fits no other")
    key = evaluation_key(run, checked, sha256=protected.sha256)
    subject = checked["base"]["digest"] if done is None else done["adapter_digest"]
    file = base_file(run, key) if done is None else result_file(run, checked, sha256=protected.sha256)
    result = find_cached(file, key=key, subject=subject)
    if result is None:
        result = {
            "schema": SCHEMA,
            "subject": "base" if base else run.kind,
            "subject_digest": subject,
            "key": key,
            "file": {"name": run.eval.file.name, "sha256": protected.sha256, "set": protected.name},
            "weights": loaded_weights(run),
            **measure_subject(run, checked=checked, base=base, say=say),
        }
        write_json(file, result)
    result["against"] = {} if base else compare_with(run, result, checked=checked)
    write_json(file, result)
    if done is not None:
        renew_card(run.output / ADAPTER, done, evaluations=read_evaluations(run.output, subject), say=say)
    return result


def with_set(
    run: RunFile,
    *,
    file: Path | None = None,
    items: int | None = None,
    question: str | None = None,
    answer: str | None = None,
    pattern: str | None = None,
    weights: Literal["16bit", "nf4"] | None = None,
) -> RunFile:
    """Return the run with another evaluation set, or with other settings for its own.

    Args:
        file: another protected set. The run file's question, answer, pattern and preference pairs belong to its own set and are dropped.
        items: how many lines, from the top.
        question: the field that holds the question.
        answer: the field that holds the reference answer.
        pattern: regular expression of what counts in an answer.
        weights: the base model's weights while measuring.
    """
    given = {"n": items, "question": question, "answer": answer, "pattern": pattern, "weights": weights}
    changes: dict[str, Any] = {key: value for key, value in given.items() if value is not None}
    if file is not None and file.resolve() != run.eval.file.resolve():
        changes = {"question": None, "answer": None, "pattern": None, "preference_snapshot": None} | changes | {"file": file.absolute()}
    try:
        # Not model_copy alone: it does not check values.
        return run.model_copy(update={"eval": EvalSet.model_validate(run.eval.model_dump() | changes)})
    except ValidationError as error:
        first = error.errors()[0]
        raise RunFileError(f"--{first['loc'][0]}", first["msg"].removeprefix("Value error, "), "train eval --help") from error


def check_evaluation_set(run: RunFile, checked: Mapping[str, Any], done: Mapping[str, Any] | None) -> ProtectedSet:
    """Return the protected set that the evaluation file is; every snapshot behind the adapter must have been screened against it."""
    recorded = {"kind": run.kind, "snapshot": checked["snapshot"]} if done is None else done
    manifest = open_recorded(run, run.output, recorded).manifest
    protected = check_protected(run.eval.file, manifest.protected, of=f"snapshot {manifest.name} v{manifest.version}")
    if done is not None and run.sft_adapter is not None and done["eval"]["sha256"] != protected.sha256:
        sft = require_sft(run, run.sft_adapter, base_digest=checked["base"]["digest"])
        facts = sft.snapshot.manifest
        check_protected(run.eval.file, facts.protected, of=f"the SFT run's snapshot {facts.name} v{facts.version}")
    return protected


def loaded_weights(run: RunFile) -> str:
    """Return what the base model's weights are loaded as for measuring: nf4, bfloat16, or float32 on a CPU without bfloat16."""
    from training.model import compute_dtype

    return "nf4" if run.eval.weights == "nf4" else compute_dtype()


def evaluation_key(run: RunFile, checked: Mapping[str, Any], *, sha256: str) -> str:
    """What a measurement depends on besides its subject: two results with one key may be compared."""
    from training.model import compute_dtype

    settings = run.eval
    parts = {
        "schema": SCHEMA,
        "file": sha256,
        "n": settings.n,
        "fields": [settings.question, settings.answer, settings.pattern],
        "max_new_tokens": settings.max_new_tokens,
        "table": file_sha256(settings.table) if settings.table else "",
        "preference": resolve_snapshot(settings.preference_snapshot).name if settings.preference_snapshot else "",
        "base": checked["base"]["digest"],
        "system": run.system,
        "weights": [loaded_weights(run), compute_dtype()],
    }
    return hashlib.sha256(canonical_json(parts)).hexdigest()


def base_file(run: RunFile, key: str) -> Path:
    """Where the base model's results are kept: beside the run folders, by key."""
    return run.output.parent / f"base-eval-{key[:12]}.json"


def result_file(run: RunFile, checked: Mapping[str, Any], *, sha256: str) -> Path:
    """Return where an adapter's results on a set are kept."""
    return run.output / (EVAL if sha256 == checked["eval"]["sha256"] else f"eval-{sha256[:12]}.json")


def find_cached(file: Path, *, key: str, subject: str) -> dict[str, Any] | None:
    """An earlier result for exactly this subject and these settings."""
    if not file.is_file():
        return None
    result = read_json(file)
    return result if result.get("key") == key and result["subject_digest"] == subject else None


def measure_subject(run: RunFile, *, checked: Mapping[str, Any], base: bool, say: Say) -> dict[str, Any]:
    """Load the model once and take every metric; per-item values are kept, so that differences can be paired."""
    import torch

    from training.metrics import Subject, measure_diversity, measure_likelihoods, measure_pairs, read_answers, read_billable, write_out
    from training.model import load_for_reading, load_tokenizer

    started = time.monotonic()
    if run.threads:
        torch.set_num_threads(run.threads)
    items, system = load_items(run, checked)
    billable, pairs = read_billable(run.eval.table), load_pairs(run)
    weights = loaded_weights(run)
    if weights != "nf4":
        refuse_large_weights(weights_bytes(run), available=available_memory() if (gpu := free_gpu_memory()) is None else gpu)
    say(f"Loading {checked['base']['id']} with its weights in {weights}")
    quantization = Quantization(kind="nf4" if weights == "nf4" else "none", double=run.quantization.double)
    model = load_for_reading(run.base_model, quantization, adapter=None if base else run.output / ADAPTER)
    subject = Subject(model, load_tokenizer(run.base_model), system=system, batch=run.eval.batch_size, merge=run.system == "merge")
    values = measure_likelihoods(subject, items) | measure_pairs(subject, pairs)
    say(f"  likelihoods of {len(items)} items: {time.monotonic() - started:.0f} s")
    answers = write_out(subject, items, max_new_tokens=run.eval.max_new_tokens)
    say(f"  answers to {len(items)} items: {time.monotonic() - started:.0f} s")
    values |= read_answers(answers, items, billable=billable, pattern=run.eval.pattern)
    return {
        "metrics": {name: measure(row).as_dict() for name, row in values.items()},
        "diversity": {name: found.as_dict() for name, found in measure_diversity(answers, items, pattern=run.eval.pattern).items()},
        "items": values,
        "answers": [{"question": i.question, "reference": i.answer, "answer": text} for i, text in zip(items, answers, strict=True)],
        "seconds": round(time.monotonic() - started, 1),
    }


def load_items(run: RunFile, checked: Mapping[str, Any]) -> tuple[list[EvalItem], str | None]:
    """The evaluation items, and the system message of the rows that were trained on, which the questions are asked with."""
    snapshot = open_recorded(run, run.output, {"kind": run.kind, "snapshot": checked["snapshot"]})
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
    others = {"base": ([base_file(run, key)], checked["base"]["digest"])}
    if run.sft_adapter is not None:
        files = [run.sft_adapter / EVAL, *sorted(run.sft_adapter.glob("eval-*.json"))]
        others["sft"] = (files, checked["sft_run"]["adapter_digest"])
    against = {}
    for name, (files, subject) in others.items():
        if other := next((found for file in files if (found := find_cached(file, key=key, subject=subject))), None):
            against[name] = {m: compare_metric(m, result, other) for m in result["items"] if m in other["items"]}
    return against


def compare_metric(name: str, ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> dict[str, Any]:
    """Return the paired difference in one metric; answers that are too much alike get no verdict.

    A correct answer is correct however often it is given, so there our own diversity counts. valid_code has no reference, so the other
    model's counts too.
    """
    found = compare(ours["items"][name], theirs["items"][name]).as_dict()
    sides = [ours] + ([theirs] if name == "valid_code" and theirs["metrics"][name]["value"] > 0 else [])
    low = [side["diversity"][name] for side in sides if side["diversity"].get(name, {}).get("is_low")]
    if low and found["verdict"] != "no change":
        found |= {"verdict": "no verdict", "reason": f"{low[0]['distinct']} distinct answers, {low[0]['references']} distinct references"}
    return found


def weights_bytes(run: RunFile) -> int:
    """Return about how much memory the base model's unquantized weights take."""
    from training.weights import find_weights

    stored = sum(file.stat().st_size for file in find_weights(run.base_model))
    return stored * (2 if loaded_weights(run) == "float32" else 1)


def refuse_large_weights(needed: int, *, available: int) -> None:
    """Refuse to load 16-bit weights that do not fit; a QLoRA run needs about a quarter of them."""
    if needed > available:
        fact = f"16-bit weights take about {needed / GIB:.1f} GiB and {available / GIB:.1f} GiB are free"
        raise TrainingError("eval.weights", fact, "measure where the adapter is served, or set weights: nf4 under eval in the run file")


def result_text(result: Mapping[str, Any], *, target: Path, sft_run: Path | None = None, options: Sequence[str] = ()) -> str:
    """Return the result as a short table: value, interval, what changed, and how many distinct answers there are.

    Args:
        result: what `evaluate_run` returned.
        target: the run file or folder, for the next command.
        sft_run: dpo only: the SFT run's folder.
        options: what chose the evaluation set on the command line.
    """
    lines = [f"{result['subject']}, {result['file']['name']}, base weights in {result['weights']}, {result['seconds']:.0f} s"]
    for name, metric in result["metrics"].items():
        text = f"  {name:<15} {metric['value']:.3f}  [{metric['low']:.3f}, {metric['high']:.3f}]  n={metric['n']}"
        for other, differences in result["against"].items():
            if name in differences:
                found = differences[name]
                reason = f" ({found['reason']})" if "reason" in found else ""
                text += f"   {found['difference']:+.3f} on {other}: {found['verdict']}{reason}"
        if found := result["diversity"].get(name):
            plural = "" if found["distinct"] == 1 else "s"
            text += f"   {found['distinct']} distinct answer{plural}, the most frequent for {found['most_frequent']:.0%} of the items"
        lines.append(text)
    if any("reason" in found for differences in result["against"].values() for found in differences.values()):
        rule = f"fewer than {LEAST_DIVERSITY:g} distinct answers a distinct reference, or one answer for most items"
        lines.append(f"  no verdict: {rule}")
    if result["weights"] == "nf4":
        lines.append("  measured over 4-bit weights; `train merge`, vLLM and the card's snippet serve 16 bits and can answer differently")
    small = min(metric["n"] for name, metric in result["metrics"].items() if name != "preference_test")  # its rows are the snapshot's
    if small < 100:
        lines.append(f"  with {small} items the intervals are wide; 100 or more tell more (eval.n in the run file)")
    missing: list[tuple[str, tuple[object, ...]]]
    missing = [("The base model", (target, "--base"))] if result["subject"] != "base" and "base" not in result["against"] else []
    if sft_run is not None and result["subject"] == "dpo" and "sft" not in result["against"]:
        missing.append(("The SFT adapter", (sft_run,)))
    for who, words in missing:
        following = command("train", "eval", *words, *options)
        lines.append(f"{who} was not measured with these settings. Next: {following}, then this again")
    return "\n".join(lines)
