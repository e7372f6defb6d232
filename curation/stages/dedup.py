"""The stage that finds copies, near copies and rewordings. Core: dedup/, embed.py."""

from __future__ import annotations

import json
import os
import zipfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from curation import snapshot as snapshots
from curation.alarms import gate_alarms
from curation.config.project import settings_digest
from curation.dedup import cluster_alarms, find_exact, find_near, find_near_against, find_semantic
from curation.dedup.arrow_text import Array, is_compiled
from curation.dedup.lsh_index import NearIndex, add_sketches, candidate_pairs, find_candidates, open_index, sketches, sketches_for
from curation.dedup.lsh_params import bands_for
from curation.dedup.near_ray import find_near_on_ray
from curation.embed import model_digest
from curation.records import KINDS, Kind, completion_text, prompt_text
from curation.snapshot.digest import read_rows_of, record_of
from curation.snapshot.manifest import MANIFEST
from curation.store import facts, records, reviews, runs
from curation.store.database import hold_lock
from curation.store.facts import Finding
from curation.store.records import Row
from curation.views.decisions import rank_rows
from curation.views.prior_snapshots import earlier_digests, find_earlier
from curation.views.staleness import dedup_inputs
from curation.views.vectors import vectors_of
from curation.workspace import Progress, StageResult, Workspace, label_of, open_workspace, texts_for_dedup

INDEX = "index"
"""Folder of the project that holds the sketches of earlier snapshots."""

TAKEN_OUT = ("dropped", "rejected")
"""Verdicts of a released row that was taken out since: its replacement may be near to it."""


@dataclass(frozen=True)
class Earlier:
    """A snapshot's rows as dedup sees them."""

    path: Path
    digest: str
    kind: Kind
    ids: list[str]
    texts: list[str]
    labels: list[str | None]


def earlier_findings(workspace: Workspace, rows: Sequence[Row], paths: Sequence[Path]) -> list[Finding]:
    """Rows near to a row of an earlier snapshot, with its text; a row that *is* in the snapshot is no copy of itself."""
    found: dict[int, Finding] = {}
    for path in paths:
        snapshot = _read(workspace, path)
        known = set(snapshot.ids)
        fresh = [row for row in rows if row.id not in known and row.seq not in found and row.kind == snapshot.kind]
        for place, twin, score, measure in _near(workspace, fresh, snapshot):
            row, text = fresh[place], " ".join(snapshot.texts[twin].split())
            evidence = f"{measure} {score:.3f} with row {snapshot.ids[twin][:12]} of {path.name}: {text[:200]!r}"
            item = f"{path.name}:{snapshot.ids[twin]}"
            found[row.seq] = Finding(row.seq, "dedup", "earlier", True, item=item, score=score, evidence=evidence)
    return list(found.values())


@dataclass(frozen=True)
class Released:
    """Rows that this project's snapshots released, each with the first one that did."""

    names: tuple[str, ...]
    """Folder name of the snapshot that released each row."""
    ids: tuple[str, ...]
    watermarks: Array
    """Highest seq in the workbench when each row was first released: rows up to it were compared by dedup then."""
    values: Array
    """Sketches, (rows, bands × bins) uint32."""


def keep_sketches(workspace: Workspace, path: Path, kind: Kind, rows: Sequence[Row], *, watermark: int) -> None:
    """Write the sketches of a snapshot's rows into the project's index, unless they are there.

    Args:
        path: the snapshot's folder, whose name the sketches carry.
        rows: the released rows.
        watermark: highest seq in the workbench when the snapshot was made.
    """
    if workspace.project.dedup.index is None:
        return
    file = _sketch_file(workspace, path.name, kind)
    if file.is_file():
        return
    shingle, bands = workspace.project.dedup.shingle, bands_for(workspace.project.dedup.near)
    values = sketches(texts_for_dedup(workspace, (row.texts for row in rows)), shingle=shingle, permutations=bands[0] * bands[1])
    ids = np.frombuffer(b"".join(bytes.fromhex(row.id) for row in rows), np.uint8).reshape(-1, 32)
    file.parent.mkdir(exist_ok=True)
    aside = file.with_name(f".{file.name}.{os.getpid()}")
    with aside.open("wb") as body:
        np.savez(body, ids=ids, values=values, watermark=np.int64(watermark))
    aside.rename(file)


def released_findings(workspace: Workspace, kind: Kind, rows: Sequence[Row], everyone: Sequence[Row]) -> list[Finding]:
    """Find rows that are near to a row which an earlier snapshot of this project released.

    Only rows that arrived after the release are looked up, so the work follows the new rows. A released row that was taken out
    since (dropped, rejected or erased) and the row that an edit came from stop nothing.

    Args:
        rows: the rows to check.
        everyone: every row of the kind in the workbench, for the texts of released ones.

    Returns:
        One finding of kind "earlier" per row, with the released row as its twin.
    """
    if workspace.project.dedup.index is None:
        return []
    released = _released(workspace, kind, everyone)
    known = set(released.ids)
    fresh = [row for row in rows if known and row.seq > released.watermarks.min() and row.id not in known]
    if not fresh:
        return []
    settings, bands = workspace.project.dedup, bands_for(workspace.project.dedup.near)
    texts = texts_for_dedup(workspace, (row.texts for row in fresh))
    values = sketches(texts, shingle=settings.shingle, permutations=bands[0] * bands[1])
    by_id, by_seq = {row.id: row for row in everyone}, {row.seq: row for row in everyone}
    gone = {seq for seq, verdict in facts.verdicts_by_seq(workspace.db).items() if verdict["verdict"] in TAKEN_OUT}
    pairs = [
        (a, b)
        for a, b in candidate_pairs(values, released.values, bands=bands)
        if (twin := by_id.get(released.ids[b])) is not None
        and fresh[a].seq > released.watermarks[b]
        and twin.seq not in gone
        and twin.seq not in _ancestors(fresh[a], by_seq)
    ]
    if not pairs:
        return []
    some, olds = sorted({a for a, _ in pairs}), sorted({b for _, b in pairs})
    twins = [by_id[released.ids[b]] for b in olds]
    old_texts, allowed = texts_for_dedup(workspace, (row.texts for row in twins)), set(pairs)
    table = find_near_against(
        [texts[a] for a in some],
        old_texts,
        threshold=settings.near,
        shingle=settings.shingle,
        labels=[label_of(workspace, fresh[a]) for a in some],
        earlier_labels=[label_of(workspace, row) for row in twins],
    )
    found = []
    for line in table.to_pylist():
        row, twin, place = fresh[some[line["row"]]], twins[line["twin"]], olds[line["twin"]]
        if (some[line["row"]], place) in allowed:
            said = " ".join(old_texts[line["twin"]].split())[:200]
            evidence = f"{line['measure']} {line['similarity']:.3f} with row {twin.id[:12]} of {released.names[place]}: {said!r}"
            item = f"{released.names[place]}:{twin.id}"
            found.append(Finding(row.seq, "dedup", "earlier", True, twin.seq, item=item, score=line["similarity"], evidence=evidence))
    return found


def _released(workspace: Workspace, kind: Kind, everyone: Sequence[Row]) -> Released:
    """Return every row that a snapshot of this project released; sketches that are missing or damaged are made again."""
    ran = {
        run["detail"].get("path"): run["watermark"] for run in reversed(runs.list_runs(workspace.db, "snapshot")) if run["state"] == "done"
    }
    by_id = {row.id: row for row in everyone}
    names, ids, watermarks, values = list[str](), list[str](), list[int](), list[Array]()
    seen: set[str] = set()
    for snapshot in reviews.list_snapshots(workspace.db):
        path = workspace.folder / snapshot["path"]
        if snapshot["kind"] != kind:
            continue
        kept = _load_sketches(workspace, path, kind)
        if kept is None and (path / MANIFEST).is_file():
            rows = [by_id[id_] for id_ in _read(workspace, path).ids if id_ in by_id]
            keep_sketches(workspace, path, kind, rows, watermark=ran.get(path.name, max((row.seq for row in rows), default=0)))
            kept = _load_sketches(workspace, path, kind)
        if kept is None:
            continue
        new = [place for place, id_ in enumerate(kept[0]) if id_ not in seen]
        seen |= set(kept[0])
        names += [path.name] * len(new)
        ids += [kept[0][place] for place in new]
        watermarks += [kept[2]] * len(new)
        values.append(kept[1][new])
    width = bands_for(workspace.project.dedup.near)
    stacked = np.concatenate(values) if values else np.empty((0, width[0] * width[1]), np.uint32)
    return Released(tuple(names), tuple(ids), np.array(watermarks, np.int64), stacked)


def _load_sketches(workspace: Workspace, path: Path, kind: Kind) -> tuple[list[str], Array, int] | None:
    """Return (ids, sketches, watermark) of a snapshot, or None where the file is missing or cannot be read."""
    file, bands = _sketch_file(workspace, path.name, kind), bands_for(workspace.project.dedup.near)
    try:
        with np.load(file, allow_pickle=False) as held:
            ids, values, watermark = held["ids"], held["values"], int(held["watermark"])
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        file.unlink(missing_ok=True)  # made again from the rows
        return None
    if values.shape != (len(ids), bands[0] * bands[1]) or ids.shape != (len(ids), 32):
        file.unlink(missing_ok=True)
        return None
    return [bytes(row).hex() for row in ids], values, watermark


def _sketch_file(workspace: Workspace, name: str, kind: Kind) -> Path:
    settings, bands = workspace.project.dedup, bands_for(workspace.project.dedup.near)
    return workspace.folder / INDEX / f"{name}-{kind}-{settings.text}-{settings.shingle}-{bands[0]}x{bands[1]}.npz"


def _ancestors(row: Row, by_seq: Mapping[int, Row]) -> set[int]:
    """Return the rows that an edited row was made from."""
    found: set[int] = set()
    while row.how == "edited" and row.parent is not None and row.parent not in found:
        found.add(row.parent)
        if row.parent not in by_seq:
            break
        row = by_seq[row.parent]
    return found


def _near(workspace: Workspace, fresh: Sequence[Row], snapshot: Earlier) -> list[tuple[int, int, float, str]]:
    """(place among fresh, place in the snapshot, similarity, measure) of what is near."""
    settings, texts = workspace.project.dedup, texts_for_dedup(workspace, (row.texts for row in fresh))
    # A snapshot's pair no longer says which label its better answer was meant to have.
    labels = [label_of(workspace, row) for row in fresh] if snapshot.kind == "instruction" else None
    candidates = np.arange(len(snapshot.ids))
    if settings.index is not None and fresh:
        index = _filled(workspace, snapshot)
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


def _filled(workspace: Workspace, snapshot: Earlier) -> NearIndex:
    """The project's index with this snapshot in it; in the project's own folder the sketches are made once and kept."""
    settings = workspace.project.dedup
    url = None if settings.index == "project" else settings.index
    index = open_index(url, threshold=settings.near, shingle=settings.shingle, name=f"seedcorn:{workspace.project.name}")
    kept = workspace.folder / INDEX / f"{snapshot.digest[:16]}-{settings.text}-{index.shingle}-{index.bands[0]}x{index.bands[1]}.npy"
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


def _read(workspace: Workspace, path: Path) -> Earlier:
    manifest = snapshots.read_manifest(path)
    tables = [snapshots.read_split(path, split, manifest=manifest) for split in manifest.splits]
    lines = [line for table in tables for line in read_rows_of(table, manifest.kind)]
    made = [record_of(line, manifest.kind) for line in lines]
    labels = [record.label if record.kind == "instruction" else None for record in made]
    texts = texts_for_dedup(workspace, ((prompt_text(record), completion_text(record)) for record in made))
    return Earlier(path, manifest.digest.root, manifest.kind, [str(line["id"]) for line in lines], texts, labels)


def dedup(folder: Path, *, against: Sequence[Path] = (), ray: str | None = None, progress: Progress | None = None) -> StageResult:
    """Find copies, near copies and rewordings; the kept one is the approved, then the pushed, then the best. Core: dedup/.

    Args:
        against: earlier snapshots, besides those the project names; rows near to one of theirs are left out.
        ray: address of a Ray cluster that looks for near copies in place of this process.
    """
    with open_workspace(folder) as workspace, hold_lock(workspace.db, "dedup"):
        ranks, earlier = rank_rows(workspace), find_earlier(workspace, against)
        seen = earlier_digests(earlier)
        model = model_digest(workspace.project.dedup.model) if workspace.project.dedup.semantic is not None else ""
        digest = settings_digest(
            workspace.project.dedup, model, sorted(ranks.items()), *([seen] if seen else []), *(["ray"] if ray else [])
        )
        if runs.is_current(workspace.db, "dedup", digest):
            return _tell_dedup(workspace, "nothing has changed since the last run; its findings stand")
        inputs = dedup_inputs(workspace)
        with runs.record_run(workspace.db, "dedup", digest) as run:
            findings, alarms = list[Finding](), list[str]()
            labels: dict[int, str | None] = {}
            for kind in KINDS:
                # A row that a person rewrote has gone on as its child, which must not fall as its copy.
                everyone = records.list_rows(workspace.db, kind)
                rows = [row for row in everyone if row.seq in ranks]
                tell = partial(progress or _untold, "dedup", len(rows), len(rows))
                run.rows_in += len(rows)
                labels |= {row.seq: label_of(workspace, row) for row in rows}
                known = earlier_findings(workspace, rows, earlier) if earlier else []
                gone = {finding.seq for finding in known}
                known += released_findings(workspace, kind, [row for row in rows if row.seq not in gone], everyone)
                gone = {finding.seq for finding in known}
                left = [row for row in rows if row.seq not in gone]
                found, alarm = _find_twins(workspace, left, ranks, tell, ray)
                if ray is not None and any(label_of(workspace, row) for row in left):
                    alarm.append("On Ray short rows of one label are not compared by edits; without --ray they are.")
                findings, alarms = findings + known + found, alarms + alarm
            facts.add_findings(workspace.db, findings, run.number)
            copies = records.count_duplicates_by_id(workspace.db)
            dropped = {f.seq for f in findings}
            run.rows_out = run.rows_in - len(dropped)
            share = workspace.project.dedup.alarm_share
            raised = [str(alarm) for alarm in gate_alarms("dedup", list(labels.values()), [seq in dropped for seq in labels], share=share)]
            run.detail = {
                "inputs": inputs,
                "kinds": Counter(f.kind for f in findings),
                "second_origins": sum(n for _, n in copies),
                "alarms": alarms,
                "gate_alarms": raised,
            }
        return _tell_dedup(workspace)


def _find_twins(
    workspace: Workspace, rows: Sequence[Row], ranks: Mapping[int, int], tell: Callable[[str], None], ray: str | None
) -> tuple[list[Finding], list[str]]:
    """Exact, then near among what is left, then semantic among what is left after that: dearer steps see fewer rows."""
    settings, findings, alarms = workspace.project.dedup, list[Finding](), list[str]()
    left = list(rows)
    for step in ("exact", "near", "semantic") if settings.semantic is not None else ("exact", "near"):
        if len(left) < 2:
            break
        tell("compiling, once on this machine" if step == "exact" and not is_compiled() else f"{step} copies")
        texts, labels = texts_for_dedup(workspace, (row.texts for row in left)), [label_of(workspace, row) for row in left]
        common: dict[str, Any] = {"labels": labels if any(labels) else None, "rank": [ranks[row.seq] for row in left]}
        if step == "exact":
            table = find_exact(texts, **common)
        elif step == "near":
            near = find_near if ray is None else partial(find_near_on_ray, address=ray)
            table = near(texts, threshold=settings.near, shingle=settings.shingle, **common)
        else:
            vectors = vectors_of(workspace, [row.prompt for row in left], tell=tell)
            assert settings.semantic is not None
            table = find_semantic(texts, vectors, threshold=settings.semantic, same_label_threshold=settings.same_label, **common)
        findings += _twin_findings(table, left, step)
        alarms += [_alarm(left, line) for line in cluster_alarms(table, len(left)).to_pylist()]
        dropped = set(table["row"].to_pylist())
        left = [row for n, row in enumerate(left) if n not in dropped]
    return findings, alarms


def _twin_findings(table: pa.Table, rows: Sequence[Row], step: str) -> list[Finding]:
    return [
        Finding(rows[line["row"]].seq, "dedup", step, True, rows[line["kept"]].seq, item=str(line["cluster"]), score=line["similarity"],
                evidence=f"{line['measure']} {line['similarity']:.3f}")
        for line in table.to_pylist()
    ]  # fmt: skip


def _alarm(rows: Sequence[Row], line: Mapping[str, Any]) -> str:
    share, text = line["share"], prompt_text(rows[line["kept"]].record)[:80]
    if line["reason"] == "chained":
        return (
            f"{line['size']} rows hang together through one another, and {line['elsewhere']} of them are no twins of {text!r}; look first."
        )
    return f"A cluster of {line['size']} rows ({share:.0%} of all) looks alike; look before you believe it. It is kept as {text!r}."


def _tell_dedup(workspace: Workspace, *notes: str) -> StageResult:
    run = runs.latest_run(workspace.db, "dedup")
    assert run is not None
    detail = json.loads(run["detail"])
    kinds = {step: detail["kinds"].get(step, 0) for step in ("exact", "near", "semantic")}
    if "earlier" in detail["kinds"]:
        kinds = {"earlier": detail["kinds"]["earlier"], **kinds}
    alarms = [*detail.get("gate_alarms", []), *detail.get("alarms", [])]
    counts = {**kinds, "identical_records": detail["second_origins"], "alarms": alarms}
    return StageResult("dedup", run["rows_in"], run["rows_out"], counts, [*alarms, *notes])


def _untold(stage: str, done: int, total: int, words: str) -> None:
    """Where nobody watches."""
