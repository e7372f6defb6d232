"""Difference of two versions of a snapshot: rows added, removed, moved, turned or edited, and shifts of what the rows are like.

Shifts are counts of the rows themselves, so they carry no interval. Scores and topics come from the project that made the snapshots.
Without it they are left out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from curation.snapshot.digest import is_record, read_rows_of, record_of
from curation.snapshot.manifest import Split, read_manifest
from curation.snapshot.read import SnapshotDiff, diff_snapshots, read_split
from curation.store import facts, records
from curation.views.state import ProjectState
from curation.word_diff import mark_changes
from curation.workspace import Workspace

BINS = 20
MOST_TOPICS = 12


@dataclass(frozen=True)
class Edit:
    """A row of the older version and the row that took its place."""

    old: str
    new: str
    split: Split
    changes: str
    """The words that changed, marked as by `curation.word_diff`."""


@dataclass(frozen=True)
class Count:
    """Rows of one value in both versions."""

    name: str
    before: int
    after: int


@dataclass(frozen=True)
class Spread:
    """A measured number in both versions: histogram on shared intervals, and quartiles."""

    edges: tuple[float, ...]
    before: tuple[int, ...]
    after: tuple[int, ...]
    quartiles_before: tuple[float, float, float]
    """Lower quartile, median, upper quartile."""
    quartiles_after: tuple[float, float, float]


@dataclass(frozen=True)
class SnapshotComparison:
    """The changes from one version to the next."""

    rows_before: int
    rows_after: int
    splits: tuple[Count, ...]
    ids: SnapshotDiff
    """An edited row is also among the added and the removed ones."""
    edited: tuple[Edit, ...]
    texts: Mapping[str, str] = field(default_factory=dict)
    """Start of the text of every row that is named, by id."""
    labels: tuple[Count, ...] = ()
    lengths: Spread | None = None
    """Characters of the response; of a pair, of the chosen one."""
    scores: Spread | None = None
    topics: tuple[Count, ...] = ()


@dataclass(frozen=True)
class _Row:
    split: Split
    prompt: str
    response: str
    label: str | None


def compare_snapshots(old: Path, new: Path, *, workspace: Workspace | None = None) -> SnapshotComparison:
    """Compare two snapshots of a kind.

    Args:
        old: folder of the earlier one.
        new: folder of the later one.
        workspace: the project that made them, for lineage, scores and topics.

    Raises:
        SnapshotError: they hold different kinds of rows, or a file was changed.
    """
    ids = diff_snapshots(old, new)
    before, after = _read(old), _read(new)
    added, removed = dict(ids.added), {row for row, _ in ids.removed}
    came_from = _lineage(workspace, added) if workspace else {}
    by_prompt: dict[tuple[str, str | None], list[str]] = {}
    for row in sorted(removed):
        by_prompt.setdefault((before[row].prompt, before[row].label), []).append(row)
    edited, used = list[Edit](), set[str]()
    for row in sorted(added):
        alike = by_prompt.get((after[row].prompt, after[row].label), [])
        # Without the project, a response that changed under an unchanged prompt is taken for an edit where there is one such row.
        source = next((one for one in came_from.get(row, ()) if one in removed), alike[0] if len(alike) == 1 else None)
        if source is not None and source not in used:
            used.add(source)
            edited.append(Edit(source, row, after[row].split, _changes(before[source], after[row])))
    named = [*ids.added, *ids.removed, *((row, to) for row, _, to in ids.changed_split), *((row, "") for row in ids.flipped)]
    scores = _scores(workspace) if workspace else {}
    return SnapshotComparison(
        len(before),
        len(after),
        _count([row.split for row in before.values()], [row.split for row in after.values()]),
        ids,
        tuple(edited),
        {row: (after.get(row) or before[row]).prompt[:300] for row, _ in named},
        _count([row.label for row in before.values()], [row.label for row in after.values()]),
        _spread([len(row.response) for row in before.values()], [len(row.response) for row in after.values()]),
        _spread([scores[row] for row in before if row in scores], [scores[row] for row in after if row in scores]),
        _topics(workspace, before, after) if workspace else (),
    )


def _read(path: Path) -> dict[str, _Row]:
    manifest = read_manifest(path)
    found: dict[str, _Row] = {}
    response = "completion" if manifest.kind == "instruction" else "chosen"
    for split in manifest.splits:
        for line in read_rows_of(read_split(path, split, manifest=manifest), manifest.kind):
            if not is_record(line, manifest.kind):
                record_of(line, manifest.kind)  # raises what is wrong with the row
            prompt = "\n".join([message["content"] for message in line["prompt"]])
            found[line["id"]] = _Row(split, prompt, line[response][0]["content"], line.get("label"))
    return found


def _changes(old: _Row, new: _Row) -> str:
    parts = [(old.prompt, new.prompt), (old.response, new.response)]
    return "\n".join(mark_changes(a, b) for a, b in parts if a != b) or "The rejected response or the instruction changed."


def _lineage(workspace: Workspace, wanted: Mapping[str, object]) -> dict[str, list[str]]:
    """Return the ids that each edited row was made from, the nearest first."""
    ids = records.ids_of(workspace.db)
    rows = {row.seq: row for kind in ("instruction", "preference") for row in records.list_rows(workspace.db, kind)}  # type: ignore[arg-type]
    found: dict[str, list[str]] = {}
    for row in rows.values():
        if row.id not in wanted:
            continue
        seen, parent = list[int](), row.parent
        while parent is not None and parent not in seen:
            seen.append(parent)
            parent = rows[parent].parent if parent in rows else None
        found[row.id] = [ids[seq] for seq in seen if seq in ids]
    return found


def _scores(workspace: Workspace) -> dict[str, float]:
    state = ProjectState(workspace)
    ids = records.ids_of(workspace.db)
    totals = {**state.totals_of("instruction"), **state.totals_of("preference")}
    return {ids[seq]: total for seq, total in totals.items() if seq in ids}


def _count(before: Sequence[str | None], after: Sequence[str | None]) -> tuple[Count, ...]:
    """Count values in both versions, the largest change first; nothing where there is no value."""
    one, two = Counter(v for v in before if v is not None), Counter(v for v in after if v is not None)
    names = sorted({*one, *two}, key=lambda name: (-abs(two[name] - one[name]), name))
    return tuple(Count(name, one[name], two[name]) for name in names)


def _spread(before: Sequence[float], after: Sequence[float]) -> Spread | None:
    if not before or not after:
        return None
    edges = np.histogram_bin_edges([*before, *after], BINS)
    counts = [tuple(int(n) for n in np.histogram(values, edges)[0]) for values in (before, after)]
    quartiles = [tuple(float(q) for q in np.percentile(values, (25, 50, 75))) for values in (before, after)]
    return Spread(tuple(float(edge) for edge in edges), counts[0], counts[1], quartiles[0], quartiles[1])  # type: ignore[arg-type]


def _topics(workspace: Workspace, before: Mapping[str, _Row], after: Mapping[str, _Row]) -> tuple[Count, ...]:
    """Count rows by topic of their prompt, from the vectors that the project holds; nothing where a vector is missing."""
    from curation.distribution.topics import find_topics
    from curation.embed import model_digest

    texts = sorted({row.prompt for row in (*before.values(), *after.values())})
    kept = facts.load_vectors(workspace.db, model_digest(workspace.project.dedup.model), set(texts))
    if len(kept) < len(texts) or len(texts) < 2:
        return ()
    vectors = np.stack([np.frombuffer(kept[text], dtype=np.float32) for text in texts])
    topics = find_topics(texts, vectors, topics=None)
    names = topics.table["name"].to_pylist()
    topic_of = {text: names[int(n)] for text, n in zip(texts, topics.of_row, strict=True)}
    counted = _count([topic_of[row.prompt] for row in before.values()], [topic_of[row.prompt] for row in after.values()])
    return counted[:MOST_TOPICS]
