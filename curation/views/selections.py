"""Selections of rows under a short name: `selection('3f9c2a1b')` in a condition means the rows that were chosen on the map.

The name is the digest of the rows, so the same rows have the same name. A selection holds row numbers and no text. The last `MOST` are kept
in PROJECT/serve/selections.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Collection
from pathlib import Path

from curation.errors import ProjectError
from curation.snapshot.write import replace_file
from curation.store.service import SERVICE_FOLDER

MOST = 50
LARGEST = 1_000_000


def save_selection(folder: Path, seqs: Collection[int]) -> str:
    """Store rows and return their name.

    Args:
        folder: of the project.
        seqs: of the rows.

    Raises:
        ProjectError: there is no row, or there are too many.
    """
    wanted = array("q", sorted(set(seqs)))
    if not 0 < len(wanted) <= LARGEST:
        raise ProjectError("selection", f"has {len(wanted):,} rows", f"choose 1 to {LARGEST:,}")
    name = hashlib.sha256(wanted.tobytes()).hexdigest()[:8]
    place = folder / SERVICE_FOLDER / "selections"
    place.mkdir(mode=0o700, parents=True, exist_ok=True)
    replace_file(place / f"{name}.bin", wanted.tobytes(), mode=0o600)
    for old in sorted(place.glob("*.bin"), key=lambda file: file.stat().st_mtime, reverse=True)[MOST:]:
        old.unlink(missing_ok=True)
    return name


def load_selections(folder: Path) -> dict[str, list[int]]:
    """Return the stored selections: name to seqs."""
    place = folder / SERVICE_FOLDER / "selections"
    return {file.stem: array("q", file.read_bytes()).tolist() for file in sorted(place.glob("*.bin"))} if place.is_dir() else {}
