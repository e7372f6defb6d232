"""Measure an adapter, or the base model, on a protected set; numbers with intervals, differences with a verdict.

    choice                 the right code's line is likelier than its siblings' (likelihood, nothing is generated)
    chapter, exact_code    what the model writes itself, read line by line
    valid_code             the share of written codes that exist and may be billed
    preference             the right answer, written out, is likelier than a sibling's
    preference_test        chosen likelier than rejected, on the preference snapshot's test split, where it has rows

Results are kept in eval.json with the digests they belong to; the base model is measured once for all runs beside it.
"""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from curation.records import canonical_json
from training.config import RunFile, TrainingError
from training.data import file_sha256, open_snapshot, read_eval_items, read_rows, resolve_snapshot
from training.folder import ADAPTER, EVAL, read_json, require_preflight, require_run, write_json
from training.intervals import compare, measure
from training.progress import Say

SCHEMA = 2
_CODE, _CHAPTER = re.compile(r"^Code:[ \t]*(\S+)", re.M), re.compile(r"^Chapter:[ \t]*(.+?)[ \t]*$", re.M)
ANSWER_LINES = 3
"""Code, Description, Chapter; the Reason after them is not read."""


def evaluate_run(run: RunFile, *, base: bool = False, say: Say = print) -> dict[str, Any]:
    """Measure a run's adapter (or its base model) and compare it with what it started from; cached by digest."""
    checked = require_preflight(run)
    if file_sha256(run.eval.file) != checked["eval"]["sha256"]:
        raise TrainingError("eval.file", "is not the file preflight looked at", f"train preflight {run.source.name}")
    done = None if base else require_run(run.output)
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
    result["against"] = compare_with(run, result, key=key) if not base else {}
    write_json(file, result)
    return result


def evaluation_key(run: RunFile, checked: Mapping[str, Any]) -> str:
    """What a measurement depends on besides its subject: two results with one key may be compared."""
    settings = run.eval
    parts = {
        "schema": SCHEMA,
        "file": checked["eval"]["sha256"],
        "n": settings.n,
        "max_new_tokens": settings.max_new_tokens,
        "table": file_sha256(settings.table) if settings.table else "",
        "preference": resolve_snapshot(settings.preference_snapshot).name if settings.preference_snapshot else "",
        "base": checked["base"]["digest"],
        "quantization": run.quantization.model_dump(),
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

    from training.model import load_base, load_tokenizer

    started = time.monotonic()
    if run.threads:
        torch.set_num_threads(run.threads)
    tokenizer = load_tokenizer(run.base_model)
    model = load_base(run.base_model, run.quantization)
    if not base:
        from peft import PeftModel

        model = PeftModel.from_pretrained(model, run.output / ADAPTER)
    model.eval()
    items = read_eval_items(run.eval.file, n=run.eval.n)
    values = measure_choice(run, model, tokenizer, items, checked=checked)
    values |= measure_preference(run, model, tokenizer, items, checked=checked)
    say(f"  likelihoods of {len(items)} items: {time.monotonic() - started:.0f} s")
    answers = _answers(run, model, tokenizer, items, checked=checked)
    values |= read_answers(answers, items, billable=_billable_codes(run.eval.table))
    return {
        "metrics": {name: measure(row).as_dict() for name, row in values.items()},
        "items": values,
        "answers": answers,
        "seconds": round(time.monotonic() - started, 1),
    }


def measure_choice(
    run: RunFile, model: Any, tokenizer: Any, items: Sequence[Mapping[str, Any]], *, checked: Mapping[str, Any]
) -> dict[str, list[float]]:
    """1 where the right code's line is likelier than each of its siblings'."""
    from training.likelihood import score_rivals

    widths = {len(item["options"]) for item in items}
    if len(widths) > 1:
        raise TrainingError(
            run.eval.file.name, f"its lines have {min(widths)} to {max(widths)} options; they must all have the same number"
        )
    prompts = _prompts(run, items, checked=checked)
    lines = [[f"Code: {code}\n" for code in item["options"]] for item in items]
    scores = score_rivals(model, tokenizer, prompts, lines, batch=run.eval.batch_size)
    best = [item["options"][row.index(max(row))] for item, row in zip(items, scores, strict=True)]
    return {"choice": [float(code == item["code"]) for code, item in zip(best, items, strict=True)]}


def measure_preference(
    run: RunFile, model: Any, tokenizer: Any, items: Sequence[Mapping[str, Any]], *, checked: Mapping[str, Any]
) -> dict[str, list[float]]:
    """1 where the right answer, written out, is likelier than a sibling's; `preference_test` asks the same of the test pairs
    of the preference snapshot, where one is named and has some."""
    from training.likelihood import score_rivals

    half = max(1, run.eval.batch_size // 2)
    scores = score_rivals(model, tokenizer, _prompts(run, items, checked=checked), [_right_and_wrong(item) for item in items], batch=half)
    values = {"preference": [float(right > wrong) for right, wrong in scores]}
    if run.eval.preference_snapshot is None:
        return values
    rows = read_rows(open_snapshot(run, resolve_snapshot(run.eval.preference_snapshot), kind="preference"), "test")
    if not rows:
        return values
    rivals = [[row["chosen"][0]["content"].rstrip("\n"), row["rejected"][0]["content"].rstrip("\n")] for row in rows]
    scores = score_rivals(model, tokenizer, [row["prompt"] for row in rows], rivals, batch=half)
    return values | {"preference_test": [float(chosen > rejected) for chosen, rejected in scores]}


def _right_and_wrong(item: Mapping[str, Any]) -> list[str]:
    """The right answer's lines, and those of the first of its siblings."""
    described = dict(zip(item["options"], item["descriptions"], strict=True))
    other = next(code for code in item["options"] if code != item["code"])
    return [f"Code: {code}\nDescription: {described[code]}\nChapter: {item['chapter']}\n" for code in (item["code"], other)]


def read_answers(answers: Sequence[str], items: Sequence[Mapping[str, Any]], *, billable: frozenset[str] | None) -> dict[str, list[float]]:
    """Chapter, exact code and validity of what the model wrote; an answer without the line counts as wrong."""
    codes = [match[1] if (match := _CODE.search(text)) else "" for text in answers]
    chapters = [match[1] if (match := _CHAPTER.search(text)) else "" for text in answers]
    values = {
        "chapter": [float(_same(chapter, item["chapter"])) for chapter, item in zip(chapters, items, strict=True)],
        "exact_code": [float(code == item["code"]) for code, item in zip(codes, items, strict=True)],
    }
    return values if billable is None else values | {"valid_code": [float(code in billable) for code in codes]}


def compare_with(run: RunFile, result: Mapping[str, Any], *, key: str) -> dict[str, Any]:
    """Paired differences to the base model and, for dpo, to the SFT adapter; a missing measurement is left out."""
    files = {"base": base_file(run, key)}
    if run.sft_adapter is not None:
        files["sft"] = run.sft_adapter / EVAL
    against = {}
    for name, file in files.items():
        other = read_json(file) if file.is_file() else None
        if other and other["key"] == key:
            against[name] = {m: compare(row, other["items"][m]).as_dict() for m, row in result["items"].items() if m in other["items"]}
    return against


def result_text(result: Mapping[str, Any]) -> str:
    """The result as a short table: value, interval, and what changed."""
    lines = [f"{result['subject']}, {result['file']['name']}, {result['seconds']:.0f} s"]
    for name, metric in result["metrics"].items():
        text = f"  {name:<15} {metric['value']:.3f}  [{metric['low']:.3f}, {metric['high']:.3f}]  n={metric['n']}"
        for other, differences in result["against"].items():
            if name in differences:
                found = differences[name]
                text += f"   {found['difference']:+.3f} on {other}: {found['verdict']}"
        lines.append(text)
    if result["subject"] != "base" and "base" not in result["against"]:
        lines.append("The base model was not measured with these settings. Next: train eval RUN --base")
    return "\n".join(lines)


def _answers(run: RunFile, model: Any, tokenizer: Any, items: Sequence[Mapping[str, Any]], *, checked: Mapping[str, Any]) -> list[str]:
    from training.likelihood import write_answers

    settings = run.eval
    return write_answers(
        model,
        tokenizer,
        _prompts(run, items, checked=checked),
        max_new_tokens=settings.max_new_tokens,
        batch=settings.batch_size * 5,
        stop_lines=ANSWER_LINES,
    )


def _prompts(run: RunFile, items: Sequence[Mapping[str, Any]], *, checked: Mapping[str, Any]) -> list[list[dict[str, str]]]:
    """The phrase as the training rows ask it: the system message is theirs."""
    snapshot = open_snapshot(run, run.output / checked["snapshot"]["path"], kind=checked["snapshot"]["kind"])
    first = read_rows(snapshot, "train")[0]["prompt"][0]
    system = [{"role": "system", "content": first["content"]}] if first["role"] == "system" else []
    return [[*system, {"role": "user", "content": item["phrase"]}] for item in items]


def _billable_codes(table: Path | None) -> frozenset[str] | None:
    if table is None:
        return None
    import pyarrow.parquet as pq

    rows = pq.read_table(table, columns=["code", "billable"], use_threads=False).to_pydict()
    return frozenset(code for code, billable in zip(rows["code"], rows["billable"], strict=True) if billable)


def _same(a: str, b: str) -> bool:
    return " ".join(a.split()).casefold() == " ".join(b.split()).casefold()
