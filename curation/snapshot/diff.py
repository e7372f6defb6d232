"""Differences between two snapshots, by record id."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from curation.errors import SnapshotError
from curation.snapshot.manifest import SPLITS, Split, read_manifest
from curation.snapshot.read import read_split


@dataclass(frozen=True)
class SnapshotDiff:
    """Rows added, removed, changed in split or flipped in preference; each tuple is sorted by id."""

    added: tuple[tuple[str, Split], ...]
    removed: tuple[tuple[str, Split], ...]
    changed_split: tuple[tuple[str, Split, Split], ...]
    flipped: tuple[str, ...]
    """Pairs whose chosen and rejected responses were swapped; always empty for instructions."""

    @property
    def is_empty(self) -> bool:
        return not (self.added or self.removed or self.changed_split or self.flipped)


def diff_snapshots(a: Path, b: Path) -> SnapshotDiff:
    """Compare snapshot `b` with snapshot `a`.

    Raises:
        SnapshotError: they hold different kinds of rows.
    """
    kinds = [read_manifest(path).kind for path in (a, b)]
    if kinds[0] != kinds[1]:
        raise SnapshotError(str(b), f"holds {kinds[1]} rows and {a} {kinds[0]} rows", "name two snapshots of one kind")
    before, after = _rows_by_id(a), _rows_by_id(b)
    both = sorted(set(before) & set(after))
    return SnapshotDiff(
        added=tuple((i, after[i][0]) for i in sorted(set(after) - set(before))),
        removed=tuple((i, before[i][0]) for i in sorted(set(before) - set(after))),
        changed_split=tuple((i, before[i][0], after[i][0]) for i in both if before[i][0] != after[i][0]),
        flipped=tuple(i for i in both if before[i][1] != after[i][1]),
    )


def _rows_by_id(path: Path) -> dict[str, tuple[Split, str | None]]:
    """Return for each id its split and, for a pair, the chosen text."""
    rows: dict[str, tuple[Split, str | None]] = {}
    for split in SPLITS:
        table = read_split(path, split)
        ids = table.column("id").to_pylist()
        chosen = [m[0]["content"] for m in table.column("chosen").to_pylist()] if "chosen" in table.column_names else [None] * len(ids)
        rows |= {i: (split, text) for i, text in zip(ids, chosen, strict=True)}
    return rows
