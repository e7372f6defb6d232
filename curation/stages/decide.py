"""Compute verdicts from stored results. Nothing is measured; the rules are in `curation.decide`."""

from __future__ import annotations

from pathlib import Path

from curation.stages.verdicts import update_verdicts
from curation.workspace import StageResult, open_workspace


def decide(folder: Path) -> StageResult:
    """Compute every row's verdict from the facts, the thresholds and the overrides."""
    with open_workspace(folder) as workspace:
        return update_verdicts(workspace)
