"""Compare two finished runs, item by item, on an evaluation set that both were measured on."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict

from curation.errors import command
from training.errors import TrainingError
from training.evaluate import compare_results
from training.records import RunRecord
from training.results import DifferenceFacts, EvaluationResult, MetricFacts
from training.run_folder import RUN, read_evaluations, read_json, validate_record


class ComparedRun(BaseModel):
    """One of the two runs."""

    model_config = ConfigDict(frozen=True)

    folder: str
    kind: str
    snapshot: str
    """Name and version."""
    rows: int
    """Rows that were trained on."""
    steps: int
    metrics: dict[str, MetricFacts]


class Comparison(BaseModel):
    """Two runs and the paired differences, first minus second, by metric."""

    model_config = ConfigDict(frozen=True)

    first: ComparedRun
    second: ComparedRun
    file: str
    """Name of the evaluation file."""
    differences: dict[str, DifferenceFacts]


def compare_runs(first: Path, second: Path) -> Comparison:
    """Return the paired differences of two runs on the first set that both were measured on with the same settings.

    Args:
        first: a run folder.
        second: another one.

    Raises:
        TrainingError: a run is not finished or not measured, or no set was measured for both with the same settings and base model.
    """
    (one, own), (two, others) = _read(first), _read(second)
    by_key = {result.key: result for result in others}
    shared = next((result for result in own if result.key in by_key), None)
    if shared is None:
        ours, theirs = (", ".join(f"{r.file.name} ({r.key[:8]})" for r in found) for found in (own, others))
        fact = f"were not measured alike: {first.name} on {ours}; {second.name} on {theirs}"
        again = "evaluate both with the same eval settings and base model: train eval RUN --eval FILE"
        raise TrainingError(f"{first} and {second}", fact, again)
    other = by_key[shared.key]
    differences = compare_results(shared, other)
    return Comparison(
        first=_describe(first, one, shared), second=_describe(second, two, other), file=shared.file.name, differences=differences
    )


def comparison_text(found: Comparison) -> str:
    """Return the table for the screen."""
    lines = [f"{found.file}: {found.first.folder} (first) and {found.second.folder} (second)"]
    for name, run in (("first", found.first), ("second", found.second)):
        lines.append(f"  {name}: {run.kind}, {run.rows} rows of {run.snapshot}, {run.steps} steps")
    for name, difference in found.differences.items():
        a, b = found.first.metrics[name], found.second.metrics[name]
        reason = f" ({difference.reason})" if difference.reason else ""
        verdict = {"better": "the first is better", "worse": "the second is better"}.get(difference.verdict, difference.verdict)
        lines.append(
            f"  {name:<15} {a.value:.3f} and {b.value:.3f}: {difference.difference:+.3f}  [{difference.low:+.3f}, {difference.high:+.3f}]"
            f"  p={difference.p:.3f}  n={difference.n}   {verdict}{reason}"
        )
    return "\n".join(lines)


def _read(folder: Path) -> tuple[RunRecord, list[EvaluationResult]]:
    if not (folder / RUN).is_file():
        raise TrainingError(str(folder), "is no finished run folder", "name the folder with run.json, which `train sft` writes at its end")
    record = validate_record(RunRecord, read_json(folder / RUN), file=folder / RUN)
    found = read_evaluations(folder, record.adapter_digest)
    if not found:
        raise TrainingError(str(folder), "was not evaluated", command("train", "eval", folder))
    return record, found


def _describe(folder: Path, record: RunRecord, result: EvaluationResult) -> ComparedRun:
    rows = record.rows["train"]
    return ComparedRun(
        folder=str(folder), kind=record.kind, snapshot=f"{record.snapshot.name} v{record.snapshot.version}",
        rows=rows.used, steps=record.steps, metrics=result.metrics,
    )  # fmt: skip
