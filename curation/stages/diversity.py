"""Measure the diversity of the remaining rows, compared with what the same teacher writes without a plan."""

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
from curation.store import facts, runs
from curation.store.calls import CallLedger
from curation.views.decisions import cover_plan
from curation.views.runs import is_simulated
from curation.views.state import ProjectState
from curation.views.vectors import vectors_of
from curation.workspace import Progress, StageResult, Workspace, open_workspace


def diversity(folder: Path, *, naive: int = 0, progress: Progress | None = None) -> StageResult:
    """Measure the diversity of the remaining rows.

    Args:
        folder: of the project.
        naive: number of examples that the teacher also writes without a plan, to compare with as many rows; 0 for none.
        progress: called while the teacher answers.
    """
    with open_workspace(folder) as workspace, runs.record_run(workspace.db, "diversity") as run:
        stopped = _ask_naively(workspace, naive, progress) if naive else ""
        state = ProjectState(workspace)
        now = cover_plan(state)
        rows = [row for row in state.rows["instruction"] if row.how != "imported" and row.seq not in now.taken_out]
        ours, theirs = [row.prompt for row in rows], _naive_texts(workspace, run.number)
        filled: dict[str, float | int] = {"cells": len(now.cells), "filled": now.filled_cells, "share": now.share}
        counts: dict[str, Any] = {"coverage": filled, "set": _measure(workspace, ours).as_values()}
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
            notes.append("Simulated figures: the mock provider wrote the rows. Only the rows of a real teacher show its diversity.")
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


def _naive_texts(workspace: Workspace, run: int) -> list[str]:
    answers = CallLedger(workspace.db).answers("naive", simulated=is_simulated(workspace.project.models.teacher))
    texts, failures = naive_texts(answers, workspace.project)
    facts.add_failures(workspace.db, failures, run)
    return texts


def _measure(workspace: Workspace, texts: Sequence[str]) -> Diversity:
    return measure_diversity(texts, vectors_of(workspace, texts))


def _some(texts: Sequence[str], count: int, seed: int) -> list[str]:
    return list(texts) if len(texts) == count else random.Random(f"{seed}:diversity").sample(list(texts), count)


def _naive_cost(workspace: Workspace) -> float:
    return round(sum(row.cost_usd + row.uncertain_usd for row in CallLedger(workspace.db).costs() if row.stage == "naive"), 6)
