"""New rows beside those of earlier snapshots, this project's or another's: what was released once is not released again."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from curation import snapshot as snapshots
from curation.dedup import find_near_against
from curation.dedup.index import NearIndex, add_sketches, find_candidates, open_index, sketches_for
from curation.errors import ProjectError
from curation.pipeline.bench import Bench, label_of
from curation.records import Kind, completion_text, prompt_text
from curation.snapshot.digest import read_rows_of, record_of
from curation.store.facts import Finding
from curation.store.records import Row

INDEX = "index"
"""Folder of the project that holds the sketches of earlier snapshots."""


@dataclass(frozen=True)
class Earlier:
    """A snapshot's rows as dedup sees them."""

    path: Path
    digest: str
    kind: Kind
    ids: list[str]
    texts: list[str]
    labels: list[str | None]


def find_earlier(bench: Bench, against: Iterable[Path]) -> list[Path]:
    """Folders of the snapshots to look at: those the project names (patterns are allowed), then `against`.

    Raises:
        ProjectError: a name fits no folder.
    """
    found: list[Path] = list(against)
    for pattern in bench.project.dedup.against:
        fits = [Path(pattern)] if Path(pattern).is_absolute() else sorted(bench.folder.glob(pattern))
        if not fits:
            raise ProjectError("project.yaml: dedup.against", f"{pattern} fits no folder", "name snapshots, for example snapshots/*")
        found += fits
    return list(dict.fromkeys(path.resolve() for path in found))


def earlier_digests(paths: Sequence[Path]) -> list[str]:
    """The content digest of each snapshot."""
    return [snapshots.read_manifest(path).digest.root for path in paths]


def earlier_findings(bench: Bench, rows: Sequence[Row], paths: Sequence[Path]) -> list[Finding]:
    """Rows near to a row of an earlier snapshot, with its text; a row that *is* in the snapshot is no copy of itself."""
    found: dict[int, Finding] = {}
    for path in paths:
        snapshot = _read(bench, path)
        known = set(snapshot.ids)
        fresh = [row for row in rows if row.id not in known and row.seq not in found and row.kind == snapshot.kind]
        for place, twin, score, measure in _near(bench, fresh, snapshot):
            row, text = fresh[place], " ".join(snapshot.texts[twin].split())
            evidence = f"{measure} {score:.3f} with row {snapshot.ids[twin][:12]} of {path.name}: {text[:200]!r}"
            item = f"{path.name}:{snapshot.ids[twin]}"
            found[row.seq] = Finding(row.seq, "dedup", "earlier", True, item=item, score=score, evidence=evidence)
    return list(found.values())


def texts_for_dedup(bench: Bench, made: Iterable[tuple[str, str]]) -> list[str]:
    """Of each (prompt, completion) the text in which duplicates are looked for, as the project chooses."""
    choice = bench.project.dedup.text
    if choice == "both":
        return [f"{prompt}\n\n{completion}" for prompt, completion in made]
    return [prompt if choice == "prompt" else completion for prompt, completion in made]


def _near(bench: Bench, fresh: Sequence[Row], snapshot: Earlier) -> list[tuple[int, int, float, str]]:
    """(place among fresh, place in the snapshot, similarity, measure) of what is near."""
    settings, texts = bench.project.dedup, texts_for_dedup(bench, (row.texts for row in fresh))
    # A snapshot's pair no longer says which label its better answer was meant to have.
    labels = [label_of(bench, row) for row in fresh] if snapshot.kind == "instruction" else None
    candidates = np.arange(len(snapshot.ids))
    if settings.index is not None and fresh:
        index = _filled(bench, snapshot)
        prefix = snapshot.digest[:12].encode() + b":"
        place = {prefix + id_.encode(): n for n, id_ in enumerate(snapshot.ids)}
        candidates = np.array(sorted({place[key] for keys in find_candidates(index, texts) for key in keys if key in place}), np.int64)
    table = find_near_against(
        texts,
        [snapshot.texts[n] for n in candidates],
        threshold=settings.near,
        shingle=settings.shingle,
        labels=labels,
        earlier_labels=[snapshot.labels[n] for n in candidates] if labels is not None else None,
    )
    return [(n["row"], int(candidates[n["twin"]]), n["similarity"], n["measure"]) for n in table.to_pylist()]


def _filled(bench: Bench, snapshot: Earlier) -> NearIndex:
    """The project's index with this snapshot in it; in the project's own folder the sketches are made once and kept."""
    settings = bench.project.dedup
    url = None if settings.index == "project" else settings.index
    index = open_index(url, threshold=settings.near, shingle=settings.shingle, name=f"seedcorn:{bench.project.name}")
    kept = bench.folder / INDEX / f"{snapshot.digest[:16]}-{settings.text}-{index.shingle}-{index.bands[0]}x{index.bands[1]}.npy"
    if kept.is_file():
        values = np.load(kept, allow_pickle=False)
    else:
        values = sketches_for(index, snapshot.texts)
        kept.parent.mkdir(exist_ok=True)
        aside = kept.with_suffix(".partial")
        with aside.open("wb") as file:
            np.save(file, values)
        aside.rename(kept)
    add_sketches(index, [snapshot.digest[:12].encode() + b":" + id_.encode() for id_ in snapshot.ids], values)
    return index


def _read(bench: Bench, path: Path) -> Earlier:
    manifest = snapshots.read_manifest(path)
    tables = [snapshots.read_split(path, split, manifest=manifest) for split in manifest.splits]
    lines = [line for table in tables for line in read_rows_of(table, manifest.kind)]
    made = [record_of(line, manifest.kind) for line in lines]
    labels = [record.label if record.kind == "instruction" else None for record in made]
    texts = texts_for_dedup(bench, ((prompt_text(record), completion_text(record)) for record in made))
    return Earlier(path, manifest.digest.root, manifest.kind, [str(line["id"]) for line in lines], texts, labels)
