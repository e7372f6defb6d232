"""How various the rows are that stand, beside what the same teacher writes without a plan. Core: diversity.py, generate/naive.py."""

from __future__ import annotations

import random
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from curation.diversity import Diversity, measure_diversity
from curation.errors import BudgetReached, UnusableAnswers
from curation.generate import naive_requests, naive_texts
from curation.pipeline.asking import Progress, ask, is_simulated
from curation.pipeline.bench import Bench, Summary, open_bench
from curation.pipeline.duplicates import vectors_of
from curation.pipeline.refilling import Standing, standing
from curation.requests import Answer, Failure
from curation.store import CallLedger, facts, records, runs


def diversity(folder: Path, *, naive: int = 0, progress: Progress | None = None) -> Summary:
    """Measure the rows that stand; with NAIVE also so many examples that the teacher writes without a plan, at the same size."""
    with open_bench(folder) as bench, runs.record_run(bench.db, "diversity") as run:
        stopped = _ask_naively(bench, naive, progress) if naive else ""
        now = standing(bench)
        ours, theirs = _standing_texts(bench, now), _naive_texts(bench, run.number)
        counts: dict[str, Any] = {"coverage": _coverage(now), "set": _measure(bench, ours).as_values()}
        if theirs:
            size = min(len(ours), len(theirs))
            both = [_measure(bench, _some(texts, size, bench.project.plan.seed)) for texts in (ours, theirs)]
            counts |= {
                "compared_at": size,
                "planned": both[0].as_values(),
                "naive": both[1].as_values(),
                "naive_cost_usd": _naive_cost(bench),
            }
            counts["vendi_ratio"] = round(both[0].vendi / both[1].vendi, 3) if both[1].vendi else None
        run.rows_in, run.rows_out, run.detail = len(ours) + len(theirs), len(ours), counts
        notes = [stopped] if stopped else []
        if is_simulated(bench.project.models.teacher):
            notes.append("Mechanical figures: the offline stand-in writes. Only a real teacher's rows say how various its writing is.")
        return Summary("diversity", len(ours) + len(theirs), len(ours), counts, notes)


def latest_diversity(bench: Bench) -> dict[str, Any] | None:
    """What the latest `curate diversity` found, for a page that shows it."""
    found = [run for run in runs.list_runs(bench.db, "diversity") if run["state"] == "done"]
    return dict(found[-1]["detail"]) if found else None


def _ask_naively(bench: Bench, count: int, progress: Progress | None) -> str:
    try:
        ask(bench, naive_requests(bench.project, count), bench.project.models.teacher, progress=progress, read=partial(_unusable, bench))
    except (BudgetReached, UnusableAnswers) as error:
        return str(error)
    return ""


def _unusable(bench: Bench, answer: Answer) -> Failure | None:
    return next(iter(naive_texts([answer], bench.project)[1]), None)


def _standing_texts(bench: Bench, now: Standing) -> list[str]:
    """What is asked in the generated instruction rows that stand, in order."""
    rows = records.list_rows(bench.db, "instruction")
    return [row.prompt for row in rows if row.how != "imported" and row.seq not in now.fallen]


def _naive_texts(bench: Bench, run: int) -> list[str]:
    answers = CallLedger(bench.db).answers("naive", simulated=is_simulated(bench.project.models.teacher))
    texts, failures = naive_texts(answers, bench.project)
    facts.add_failures(bench.db, failures, run)
    return texts


def _measure(bench: Bench, texts: Sequence[str]) -> Diversity:
    return measure_diversity(texts, vectors_of(bench, texts))


def _some(texts: Sequence[str], count: int, seed: int) -> list[str]:
    return list(texts) if len(texts) == count else random.Random(f"{seed}:diversity").sample(list(texts), count)


def _coverage(now: Standing) -> dict[str, float | int]:
    filled = sum(cell.id in now.filled for cell in now.cells)
    return {"cells": len(now.cells), "filled": filled, "share": round(filled / len(now.cells), 4) if now.cells else 0.0}


def _naive_cost(bench: Bench) -> float:
    return round(sum(row.cost_usd + row.uncertain_usd for row in CallLedger(bench.db).costs() if row.stage == "naive"), 6)
