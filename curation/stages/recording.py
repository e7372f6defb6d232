"""Record what was done with a snapshot in the project it belongs to; the stages on finished snapshots share it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from curation.errors import ProjectError
from curation.store import runs
from curation.workspace import open_workspace


def record_in_project(path: Path, stage: str, digest: str, rows: int, detail: Mapping[str, Any]) -> list[str]:
    """Record a run of the stage in the snapshot's project, if there is one; return a note if the project cannot be written."""
    folder = path.resolve().parent.parent
    if not (folder / "workbench.db").is_file():
        return []
    try:
        with open_workspace(folder) as workspace, runs.record_run(workspace.db, stage, digest) as run:
            run.rows_in = run.rows_out = rows
            run.detail = json.loads(json.dumps(dict(detail), default=str))
    except ProjectError as error:  # for example a read-only folder; the stage itself is done
        return [f"The run was not recorded in the project: {error.what} {error.fact}."]
    return []
