"""The stages in order, and the only place where anything is read or written.

    plan ─ import ─ generate ─ score ─ dedup ─ screen ─ refill ─ push ─▶ people ─▶ pull ─ decide ─ snapshot ─ sign

Each verb of the command line is one function here, named in the file its stage stands in: writing.py (plan, generate),
estimating.py (generate --dry-run), judging.py (score), importing.py (import), duplicates.py (dedup), screening.py (screen),
refilling.py (refill), describing.py (describe, compare), balancing.py (balance), measuring.py (diversity), reviewing.py (push, pull),
deciding.py (decide), shipping.py (snapshot, sign, revoke, diff, verify, export), telling.py (status, trace, report, keep, drop, erase).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from curation.errors import ProjectError, command
from curation.formats import ReadAs
from curation.pipeline.asking import Progress
from curation.pipeline.balancing import balance
from curation.pipeline.bench import Summary, open_bench
from curation.pipeline.deciding import decide
from curation.pipeline.describing import compare, describe
from curation.pipeline.duplicates import dedup
from curation.pipeline.estimating import estimate
from curation.pipeline.importing import Provenance, import_rows
from curation.pipeline.judging import score
from curation.pipeline.measuring import diversity
from curation.pipeline.refilling import refill
from curation.pipeline.reviewing import pull, push
from curation.pipeline.screening import screen
from curation.pipeline.shipping import diff, export, revoke, sign, snapshot, verify
from curation.pipeline.telling import erase, override, report, status, trace
from curation.pipeline.writing import generate, plan

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
    """Walk the stages from the plan up to UNTIL; each asks only for what is missing."""
    if until not in WALK:
        raise ProjectError(f"--until {until}", f"is not one of {', '.join(WALK)}", command("curate", "run", folder, "--until", "push"))
    for name in WALK[: WALK.index(until) + 1]:
        if name == "plan":
            yield plan(folder)
        else:
            stage = {"generate": generate, "score": score, "dedup": dedup, "screen": screen, "refill": refill, "push": push}[name]
            yield stage(folder, progress=progress)
