"""What the latest runs of the stages left for others to read."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

from curation.config.project import ModelSpec
from curation.distribution import Comparison, Description
from curation.leakage import OperatingPoint
from curation.store import facts, reviews, runs
from curation.store.database import CallLedger
from curation.workspace import Workspace


def is_simulated(spec: ModelSpec) -> bool:
    """Whether the offline stand-in answers for this model; its answers and its money never mix with real ones."""
    return spec.is_simulated


def count_failed(workspace: Workspace, stage: str) -> dict[str, int]:
    """Reason to count: answers that could not be used, and calls that got none."""
    unanswered = Counter(failure.reason for failure in CallLedger(workspace.db).failures(stage))
    return dict(Counter(facts.failure_counts(workspace.db).get(stage, {})) + unanswered)


GATES = ("dedup", "screen")
"""The stages whose findings a verdict reads."""


def load_descriptions(workspace: Workspace) -> tuple[Description, ...] | None:
    """What the latest `curate describe` found; None when it has not run."""
    run = runs.latest_run(workspace.db, "describe")
    found = json.loads(run["detail"]) if run is not None else {}  # `curate erase` empties it
    return tuple(Description.model_validate(value) for value in found["descriptions"]) if "descriptions" in found else None


def load_comparison(workspace: Workspace) -> Comparison | None:
    """What the latest `curate compare` found; None when it has not run."""
    run = runs.latest_run(workspace.db, "compare")
    found = json.loads(run["detail"]) if run is not None else {}
    return Comparison.model_validate(found["comparison"]) if "comparison" in found else None


def latest_diversity(workspace: Workspace) -> dict[str, Any] | None:
    """What the latest `curate diversity` found, for a page that shows it."""
    found = [run for run in runs.list_runs(workspace.db, "diversity") if run["state"] == "done"]
    return dict(found[-1]["detail"]) if found else None


def load_points(workspace: Workspace) -> dict[str, OperatingPoint]:
    """Where the latest screen's cut of each suite lies, by suite; empty where it has none."""
    run = runs.latest_run(workspace.db, "screen")
    detail = json.loads(run["detail"] or "{}") if run else {}
    return {name: OperatingPoint(name, **point) for name, point in detail.get("operating_point", {}).get("suites", {}).items()}


def point_in_words(point: OperatingPoint) -> str:
    """One suite's cut and what it was estimated on."""
    if not point.is_estimated:
        return f"{point.cut:.2f}, fixed ({point.items:,} items are too few to estimate on)"
    return f"{point.cut:.2f} ({point.flagged:,} of {point.items:,} items lie beyond it with their nearest other one)"


def _snapshots_with(workspace: Workspace, identity: str) -> list[str]:
    """The snapshots on disk that hold a record."""
    import pyarrow.parquet as pq

    def holds(path: Path) -> bool:
        return any(
            pq.read_table(part, columns=["id"], filters=[("id", "=", identity)], use_threads=False).num_rows
            for part in path.glob("*.parquet")
        )

    return [s["path"] for s in reviews.list_snapshots(workspace.db) if holds(workspace.folder / s["path"])]
