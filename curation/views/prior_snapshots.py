"""Earlier snapshots that new rows are compared with: the folders that the project names, and their digests."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from curation import snapshot as snapshots
from curation.errors import ProjectError
from curation.workspace import Workspace


def find_earlier(workspace: Workspace, against: Iterable[Path]) -> list[Path]:
    """Folders of the snapshots to look at: those the project names (patterns are allowed), then `against`.

    Raises:
        ProjectError: a name fits no folder.
    """
    found: list[Path] = list(against)
    for pattern in workspace.project.dedup.against:
        fits = [Path(pattern)] if Path(pattern).is_absolute() else sorted(workspace.folder.glob(pattern))
        if not fits:
            raise ProjectError("project.yaml: dedup.against", f"{pattern} fits no folder", "name snapshots, for example snapshots/*")
        found += fits
    return list(dict.fromkeys(path.resolve() for path in found))


def earlier_digests(paths: Sequence[Path]) -> list[str]:
    """The content digest of each snapshot."""
    return [snapshots.read_manifest(path).digest.root for path in paths]
