"""List what rows went into: snapshots, exports, published copies, adapters; core: views/affected.py."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from curation.store import records
from curation.views.affected import find_affected
from curation.views.listed_rows import Listed, listed_seqs
from curation.views.state import ProjectState
from curation.workspace import StageResult, open_workspace


def affected(folder: Path, rows: Listed, *, run_folders: Sequence[Path] = ()) -> StageResult:
    """List the snapshots, exports and adapters that rows went into. Erased rows can be named by their ids.

    Args:
        folder: of the project.
        rows: ids of records, a file with ids, or a query over the table of rows.
        run_folders: folders with run folders, in addition to PROJECT/runs and the user's list of adapters.

    Raises:
        ProjectError: no such row.
    """
    with open_workspace(folder) as workspace:
        if isinstance(rows, Sequence):
            seqs = [records.find_seq(workspace.db, identity) for identity in rows]
        else:
            seqs = listed_seqs(rows, ProjectState(workspace))
        known = records.ids_of(workspace.db)
        found = find_affected(workspace, {known[seq] for seq in seqs}, run_folders=run_folders)
    counts: dict[str, Any] = {name: [asdict(one) for one in getattr(found, name)] for name in ("snapshots", "exports", "adapters")}
    counts |= {"derived": list(found.derived)}
    notes = [f"{one.folder} holds {_splits(one.rows)}{_at(one.published)}." for one in found.snapshots]
    notes += [f"{one.file} was exported from {one.snapshot} on {one.at[:10]}." for one in found.exports]
    for one in found.adapters:
        gone = "" if one.is_there else " (the run folder is gone)"
        notes.append(f"{one.run} ({one.kind}, adapter {one.digest[:12]}) was trained on {', '.join(one.snapshots)}{gone}.")
    if not found.snapshots:
        readable = " that can be read" if found.problems else ""
        notes.append(f"No snapshot of this project{readable} holds any of them.")
    if found.derived:
        notes.append(f"Rows made from them, which may hold parts of their text: {', '.join(one[:12] for one in found.derived[:10])}.")
    rows_named = len(set(seqs))
    lengths = (("row", rows_named), ("snapshot", len(found.snapshots)), ("export", len(found.exports)), ("adapter", len(found.adapters)))
    headline = ", ".join(f"{n:,} {name}{'' if n == 1 else 's'}" for name, n in lengths)
    return StageResult("affected", rows_named, len(found.snapshots), counts, [*notes, *found.problems], headline=headline)


def _splits(rows: dict[str, int]) -> str:
    return ", ".join(f"{n:,} {'row' if n == 1 else 'rows'} in {split}" for split, n in rows.items())


def _at(published: Sequence[str]) -> str:
    return f"; published at {', '.join(published)}" if published else ""
