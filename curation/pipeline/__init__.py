"""The stages in order, and the only place where anything is read or written.

    plan ─ import ─ generate ─ score ─ dedup ─ screen ─ refill ─ push ─▶ people ─▶ pull ─ decide ─ snapshot ─ sign

Each verb of the command line is one function here, named in the file its stage stands in: writing.py (plan, generate),
estimating.py (generate --dry-run), judging.py (score), importing.py (import), duplicates.py (dedup), screening.py (screen),
refilling.py (refill), describing.py (describe, compare), balancing.py (balance), measuring.py (diversity), reviewing.py (push, pull),
deciding.py (decide), shipping.py (snapshot, sign, revoke, diff, verify, export), telling.py (status, trace, report, keep, drop, erase).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from curation.errors import ProjectError, command
from curation.formats import ReadAs
from curation.pipeline.asking import Progress
from curation.pipeline.balancing import balance
from curation.pipeline.bench import Summary, open_bench
from curation.pipeline.deciding import decide
from curation.pipeline.describing import compare, describe
from curation.pipeline.duplicates import dedup
from curation.pipeline.estimating import estimate
from curation.pipeline.following import next_step
from curation.pipeline.importing import Provenance, import_rows
from curation.pipeline.judging import score
from curation.pipeline.measuring import diversity
from curation.pipeline.refilling import refill
from curation.pipeline.reviewing import pull, push
from curation.pipeline.screening import screen
from curation.pipeline.shipping import diff, export, revoke, sign, snapshot, verify
from curation.pipeline.telling import erase, override, report, status, trace
from curation.pipeline.writing import generate, plan
from curation.project import planned_rows
from curation.store import records

__all__ = [
    "Progress",
    "Provenance",
    "ReadAs",
    "Summary",
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
    "open_bench",
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

WALK = ("plan", "generate", "score", "dedup", "screen", "refill", "push")


def run(folder: Path, *, until: str = "push", progress: Progress | None = None) -> Iterator[Summary]:
    """Walk the stages from the plan up to UNTIL; each asks only for what is missing.

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
            with open_bench(folder) as bench:
                yield replace(decided, notes=[*decided.notes, f"Next: {next_step(bench)}"])
        else:
            yield named[name](folder, progress=progress)


def _not_needed(folder: Path) -> tuple[set[str], bool]:
    """Return the stages that a project has no use for, and whether people look at its rows."""
    with open_bench(folder) as bench:
        project = bench.project
        skipped = {"score"} if project.score.is_off else set()
        rows = sum(records.count_rows(bench.db).values())
        if not records.count_cells(bench.db) and (rows or not any(planned_rows(project).values())):
            if not rows:
                step = f"{command('curate', 'import', folder)} FILE, or set `plan: instruction` in project.yaml"
                raise ProjectError(str(folder), "has no rows, and its plan asks for none", step)
            skipped |= {"plan", "generate", "refill"}
        return skipped, project.review.mode != "none"
