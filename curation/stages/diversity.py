"""How various the rows are that stand, beside what the same teacher writes without a plan. Core: diversity.py, generate/naive.py."""

from __future__ import annotations

import random
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from curation.distribution.diversity import Diversity, measure_diversity
from curation.errors import BudgetReached, UnusableAnswers
from curation.generate import naive_requests, naive_texts
from curation.requests import Answer, Failure
from curation.stages.model_calls import ask
from curation.store import facts, records, runs
from curation.store.database import CallLedger
from curation.views.plan_coverage import Standing, standing
from curation.views.runs import is_simulated
from curation.views.vectors import vectors_of
from curation.workspace import Progress, StageResult, Workspace, open_workspace


def diversity(folder: Path, *, naive: int = 0, progress: Progress | None = None) -> StageResult:
    """Measure the rows that stand; with NAIVE also so many examples that the teacher writes without a plan, at the same size."""
    with open_workspace(folder) as workspace, runs.record_run(workspace.db, "diversity") as run:
        stopped = _ask_naively(workspace, naive, progress) if naive else ""
        now = standing(workspace)
        ours, theirs = _standing_texts(workspace, now), _naive_texts(workspace, run.number)
        counts: dict[str, Any] = {"coverage": _coverage(now), "set": _measure(workspace, ours).as_values()}
        if theirs:
            size = min(len(ours), len(theirs))
            both = [_measure(workspace, _some(texts, size, workspace.project.plan.seed)) for texts in (ours, theirs)]
            counts |= {
                "compared_at": size,
                "planned": both[0].as_values(),
                "naive": both[1].as_values(),
                "naive_cost_usd": _naive_cost(workspace),
            }
            counts["vendi_ratio"] = round(both[0].vendi / both[1].vendi, 3) if both[1].vendi else None
        run.rows_in, run.rows_out, run.detail = len(ours) + len(theirs), len(ours), counts
        notes = [stopped] if stopped else []
        if is_simulated(workspace.project.models.teacher):
            notes.append("Mechanical figures: the offline stand-in writes. Only a real teacher's rows say how various its writing is.")
        return StageResult("diversity", len(ours) + len(theirs), len(ours), counts, notes)


def _ask_naively(workspace: Workspace, count: int, progress: Progress | None) -> str:
    try:
        ask(
            workspace,
            naive_requests(workspace.project, count),
            workspace.project.models.teacher,
            progress=progress,
            read=partial(_unusable, workspace),
        )
    except (BudgetReached, UnusableAnswers) as error:
        return str(error)
    return ""


def _unusable(workspace: Workspace, answer: Answer) -> Failure | None:
    return next(iter(naive_texts([answer], workspace.project)[1]), None)


def _standing_texts(workspace: Workspace, now: Standing) -> list[str]:
    """What is asked in the generated instruction rows that stand, in order."""
    rows = records.list_rows(workspace.db, "instruction")
    return [row.prompt for row in rows if row.how != "imported" and row.seq not in now.fallen]


def _naive_texts(workspace: Workspace, run: int) -> list[str]:
    answers = CallLedger(workspace.db).answers("naive", simulated=is_simulated(workspace.project.models.teacher))
    texts, failures = naive_texts(answers, workspace.project)
    facts.add_failures(workspace.db, failures, run)
    return texts


def _measure(workspace: Workspace, texts: Sequence[str]) -> Diversity:
    return measure_diversity(texts, vectors_of(workspace, texts))


def _some(texts: Sequence[str], count: int, seed: int) -> list[str]:
    return list(texts) if len(texts) == count else random.Random(f"{seed}:diversity").sample(list(texts), count)


def _coverage(now: Standing) -> dict[str, float | int]:
    filled = sum(cell.id in now.filled for cell in now.cells)
    return {"cells": len(now.cells), "filled": filled, "share": round(filled / len(now.cells), 4) if now.cells else 0.0}


def _naive_cost(workspace: Workspace) -> float:
    return round(sum(row.cost_usd + row.uncertain_usd for row in CallLedger(workspace.db).costs() if row.stage == "naive"), 6)
