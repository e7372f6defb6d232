"""The stages in order. Each function reads the state of a project, calls pure functions, and writes facts or records.

    plan ─ import ─ generate ─ score ─ dedup ─ screen ─ refill ─ push ─▶ annotators ─▶ pull ─ decide ─ snapshot ─ sign

A command of `curate`, its function here and its file have the same name; `import` is `import_rows`, `keep` and `drop` are `override`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from curation.config.project import planned_rows
from curation.errors import ProjectError, command
from curation.findings import RUN_GATES
from curation.formats.raw import ReadAs
from curation.stages.balance import balance
from curation.stages.decide import decide
from curation.stages.dedup import dedup
from curation.stages.describe import compare, describe
from curation.stages.diversity import diversity
from curation.stages.estimate import estimate
from curation.stages.generate import generate
from curation.stages.import_rows import Provenance, import_rows
from curation.stages.inspect import status, trace
from curation.stages.override import erase, override
from curation.stages.plan import plan
from curation.stages.pull import pull
from curation.stages.push import push
from curation.stages.refill import refill
from curation.stages.release import diff, export, revoke, sign, verify
from curation.stages.report import report
from curation.stages.score import score
from curation.stages.screen import screen
from curation.stages.snapshot import snapshot
from curation.store import records
from curation.views.next_step import next_step
from curation.workspace import Progress, StageResult, open_workspace

__all__ = [
    "Progress",
    "Provenance",
    "ReadAs",
    "StageResult",
    "balance",
    "compare",
    "decide",
    "dedup",
    "describe",
    "diff",
    "diversity",
    "erase",
    "estimate",
    "export",
    "generate",
    "import_rows",
    "open_workspace",
    "override",
    "plan",
    "pull",
    "push",
    "refill",
    "report",
    "revoke",
    "run",
    "score",
    "screen",
    "sign",
    "snapshot",
    "status",
    "trace",
    "verify",
]

WALK = ("plan", "generate", *RUN_GATES, "refill", "push")
"""The stages of `curate run` in order."""


def run(folder: Path, *, until: str = "push", progress: Progress | None = None) -> Iterator[StageResult]:
    """Run the stages from the plan up to `until`; each requests only what is missing.

    A project of imported rows, in which nothing was planned yet, skips plan, generate and refill; one without a judge skips score;
    one without people ends with decide instead of push.
    """
    if until not in WALK:
        raise ProjectError(f"--until {until}", f"is not one of {', '.join(WALK)}", command("curate", "run", folder, "--until", "push"))
    named: dict[str, Any] = {
        "generate": generate, "score": score, "dedup": dedup, "screen": screen, "refill": refill, "push": push,
    }  # fmt: skip
    skipped, people = _not_needed(folder)
    for name in WALK[: WALK.index(until) + 1]:
        if name in skipped:
            continue
        if name == "plan":
            yield plan(folder)
        elif name == "push" and not people:
            decided = decide(folder)
            with open_workspace(folder) as workspace:
                yield replace(decided, notes=[*decided.notes, f"Next: {next_step(workspace)}"])
        else:
            yield named[name](folder, progress=progress)


def _not_needed(folder: Path) -> tuple[set[str], bool]:
    """Return the stages that a project has no use for, and whether people look at its rows."""
    with open_workspace(folder) as workspace:
        project = workspace.project
        skipped = {"score"} if project.score.is_off else set()
        rows = sum(records.count_rows(workspace.db).values())
        if not records.count_cells(workspace.db) and (rows or not any(planned_rows(project).values())):
            if not rows:
                step = f"{command('curate', 'import', folder)} FILE, or set `plan: instruction` in project.yaml"
                raise ProjectError(str(folder), "has no rows, and its plan asks for none", step)
            skipped |= {"plan", "generate", "refill"}
        return skipped, project.review.mode != "none"
