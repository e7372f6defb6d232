"""The stages that freeze and prove: snapshot, sign, revoke, diff, verify, export. Core: snapshot/, split.py, formats/."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from curation import snapshot as snapshots
from curation.errors import ModelUnavailable, ProjectError, SnapshotError, command
from curation.formats import ExportFormat, check_target, write_rows
from curation.pipeline.balancing import rows_past_cap
from curation.pipeline.bench import Bench, Summary, label_of, load_protected, open_bench
from curation.pipeline.classes import group_values, meta_columns
from curation.pipeline.deciding import decide_all
from curation.pipeline.duplicates import vectors_of
from curation.pipeline.earlier import keep_sketches, texts_for_dedup
from curation.pipeline.freezing import freeze
from curation.pipeline.protecting import ProtectedItems
from curation.pipeline.sampling import Sample
from curation.pipeline.screening import check_findings, conflict_findings, leak_findings
from curation.pipeline.staleness import find_stale
from curation.project import is_open, settings_digest
from curation.records import KINDS, Kind
from curation.report import Separation
from curation.snapshot import Manifest
from curation.split import find_across, merge_groups, part_rows
from curation.store import facts, hold_lock, records, reviews, runs
from curation.store.records import Row


def snapshot(folder: Path, kind: Kind, *, name: str | None = None) -> Summary:
    """Freeze the approved rows of a kind, after the gates have run once more on exactly the text that leaves. Core: snapshot/."""
    with open_bench(folder) as bench, hold_lock(bench.db, "snapshot"):
        if stale := find_stale(bench, ("dedup", "screen")):
            raise SnapshotError(f"a snapshot of {kind} rows", f"would use old findings: {stale[0].stage} is stale ({stale[0].why})",
                                stale[0].next_step)  # fmt: skip
        decided = decide_all(bench)
        decisions, sample = {d.seq: d for d in decided.decisions if d.verdict == "approved"}, decided.samples.get(kind)
        if sample is not None:
            _check_sample(bench, sample)
        # The gates read the answer that leaves as the better one, which annotators or a data lead may have chosen against its maker.
        rows = [row._replace(better=decisions[row.seq].better) for row in records.list_rows(bench.db, kind) if row.seq in decisions]
        if not rows:
            raise _nothing_approved(bench, kind)
        if is_open(bench.project.intended_use):
            what = f"{folder}/project.yaml: intended_use"
            raise ProjectError(what, "is not filled in, and every snapshot records it", "write what the model is for, and run again")
        protected = load_protected(bench)
        with runs.record_run(bench.db, "snapshot", settings_digest(kind, [row.id for row in rows])) as run:
            run.rows_in = len(rows)
            stopped = _last_gate(bench, rows, protected)
            past_cap = rows_past_cap(bench, kind, [row for row in rows if row.seq not in stopped])
            stopped |= dict.fromkeys(past_cap, "over_cap")
            kept = [row for row in rows if row.seq not in stopped]
            splits, separation, new = _split(bench, kept)
            _check_filled(splits, separation)
            facts.add_splits(bench.db, new, run.number)
            better = {row.seq: decisions[row.seq].better for row in kept}
            called = name or f"{bench.project.name}-{kind}"
            known = {Path(one["path"]).name for one in reviews.list_snapshots(bench.db)}
            frozen = freeze(
                bench, kind, name=called, parts=splits, better=better, protected=protected, stopped=stopped, separation=separation,
                sample=sample,
            )  # fmt: skip
            released = [row for part in splits.values() for row in part]
            if frozen.path.name not in known:  # of one frozen before, dedup makes missing sketches itself
                keep_sketches(bench, frozen.path, kind, released, watermark=records.last_seq(bench.db))
            run.rows_out = len(released)
            run.detail = {"kind": kind, "path": frozen.path.name, "stopped": Counter(stopped.values()), "left_out": separation.left_out}
        counts = {
            "path": str(frozen.path), "digest": snapshots.read_manifest(frozen.path).digest.root,
            **{split: len(part) for split, part in splits.items()},
            "stopped_at_last_gate": dict(Counter(stopped.values())), "left_out_of_splits": separation.left_out,
            "across_splits": {"near_pairs": separation.near_pairs, "semantic_pairs": separation.semantic_pairs},
        }  # fmt: skip
        manifest = snapshots.read_manifest(frozen.path)
        counts |= _provenance_counts(manifest)
        signer = snapshots.read_signer(frozen.path)  # of rows that were frozen, and perhaps signed, before
        told = f"It is signed by {signer}." if signer else f"Next: {command('curate', 'sign', frozen.path)}"
        warnings = manifest.provenance.warnings if manifest.provenance else ()
        notes = [note for note in (*separation.notes(), frozen.note, *warnings, told) if note]
        return Summary("snapshot", run.rows_in, run.rows_out, counts, notes)


def _provenance_counts(manifest: Manifest) -> dict[str, Any]:
    """Who wrote the rows, where they come from, and under which licence, for the screen."""
    if (found := manifest.provenance) is None:
        return {}
    sources = {f"{source.name} ({source.license})": source.rows for source in found.sources}
    return {"written_by": dict(found.written_by), **({"sources": sources} if sources else {}), "licence": manifest.licence,
            "review": manifest.review.mode}  # fmt: skip


def sign(path: Path, *, key: Path | None = None) -> Summary:
    """Sign a snapshot with your key, made on first use. Core: snapshot/."""
    snapshots.read_manifest(path)  # what is no snapshot makes no key
    private, public = (key, snapshots.public_of(key)) if key else snapshots.own_key()
    snapshots.sign_snapshot(path, private)
    manifest = snapshots.read_manifest(path)
    rows = sum(split.rows for split in manifest.splits.values())
    counts = {"path": str(path), "signer": snapshots.describe_signer(public), "public_key": str(public)}
    notes = _record_beside(path, "sign", manifest.digest.root, rows, counts)
    told = f"Others verify it with: {command('curate', 'verify', path, '--key', public)}"
    return Summary("sign", rows, rows, counts, [*notes, told])


def revoke(path: Path, *, reason: str, key: Path | None = None) -> Summary:
    """Take a snapshot back by a signed statement, in your own folder and beside the snapshot, where it travels along. Core: snapshot/."""
    if not reason.strip():
        raise SnapshotError("--reason", "is empty", command("curate", "revoke", path, "--reason", "why"))
    digest = snapshots.read_manifest(path).digest.root
    private, public = (key, snapshots.public_of(key)) if key else snapshots.own_key()
    at = datetime.now(UTC).replace(microsecond=0)
    places = (None, path.resolve().parent / snapshots.REVOCATIONS)
    files = [snapshots.revoke(digest, private, reason=reason, at=at, folder=place) for place in places]
    counts = {"path": str(path), "digest": digest, "by": snapshots.describe_signer(public), "files": [str(file) for file in files]}
    notes = _record_beside(path, "revoke", digest, 0, counts)
    told = f"Give {files[1].name} to whoever has a copy; it goes into the folder `{snapshots.REVOCATIONS}` beside theirs."
    return Summary("revoke", 0, 0, counts, [*notes, told])


def diff(old: Path, new: Path) -> Summary:
    """Which rows came, went, moved to another split or turned between two snapshots of a kind. Core: snapshot/."""
    found = snapshots.diff_snapshots(old, new)
    before, after = (sum(split.rows for split in snapshots.read_manifest(path).splits.values()) for path in (old, new))
    counts = {
        "added": [{"id": i, "split": split} for i, split in found.added],
        "removed": [{"id": i, "split": split} for i, split in found.removed],
        "moved": [{"id": i, "from": a, "to": b} for i, a, b in found.moved],
        "turned": [{"id": i} for i in found.turned],
    }
    return Summary("diff", before, after, counts, ["The same rows stand in the same splits."] if found.is_empty else [])


def verify(path: Path, *, keys: Sequence[Path] = (), deep: bool = False) -> Summary:
    """Check that a snapshot is whole, and say whose signature it has and why that key is trusted. Core: snapshot/.

    Args:
        keys: public keys to trust in addition to the user's store. A key that lies next to the snapshot, in its project say, is
            never trusted by itself: whoever wrote the snapshot could have written the key too.
        deep: also recompute the digest from the rows.
    """
    result = snapshots.verify_snapshot(path, trusted_keys=[*keys, *snapshots.find_trusted_keys()], deep=deep)
    if result.status == "no snapshot":
        raise SnapshotError(str(path), "; ".join(problem.fact for problem in result.problems), "name a folder that `curate snapshot` wrote")
    counts = {
        "path": str(path), "status": result.status, "signer": result.signer, "trusted_by": _trusted_by(result.key, keys),
        "verified": result.is_verified, "deep": result.rows_checked,
    }  # fmt: skip
    if (manifest := result.manifest) is not None:
        rows = sum(split.rows for split in manifest.splits.values())
        return Summary("verify", rows, rows, counts, _record_beside(path, "verify", manifest.digest.root, rows, counts))
    return Summary("verify", 0, 0, counts, [*map(str, result.problems), f"Next: {_remedy(path, result.status)}"])


def export(
    path: Path,
    target: str | Path,
    *,
    shape: ExportFormat | None = None,
    split: str = "train",
    columns: Sequence[str] = (),
    force: bool = False,
    keys: Sequence[Path] = (),
) -> Summary:
    """Write a split of a verified snapshot for people who train elsewhere. Core: formats/.

    Args:
        target: a local file; its ending decides the format (.jsonl, .json, .csv, .parquet).
        shape: of the rows; by default messages, of pairs preference.
        columns: metadata columns of imported rows to write too, read from the project that the snapshot is in.
        force: whether a file that exists may be replaced.

    Raises:
        SnapshotError: the snapshot may not be used, or has no such split.
        ProjectError: the target cannot be written, or there is no such column.
    """
    file = check_target(target, force=force)
    found = snapshots.load_snapshot(path, trusted_keys=[*keys, *snapshots.find_trusted_keys()])
    if file.resolve().is_relative_to(path.resolve()):
        raise SnapshotError(str(file), "is inside the snapshot, whose signature would not hold any more", "name a file outside with --out")
    if split not in found.manifest.splits:
        raise SnapshotError(f"{path}: split {split}", "is not there", f"choose one of {', '.join(found.manifest.splits)}")
    shape = shape or ("preference" if found.manifest.kind == "preference" else "messages")
    table = found.table(split)  # type: ignore[arg-type]
    more = _metadata_of(path, table["id"].to_pylist(), columns) if columns else None
    written = write_rows(table, file, shape, system_instruction=None, columns=more)
    detail = {"file": file.name, "format": shape, **({"columns": list(columns)} if columns else {})}
    notes = _record_beside(path, "export", found.manifest.digest.root, written, detail)
    counts = {"file": str(file), "format": shape, "split": split, "signer": found.signer, "trusted_by": _trusted_by(found.key, keys)}
    return Summary("export", written, written, counts, notes)


def _metadata_of(path: Path, ids: Sequence[str], columns: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Return the metadata columns of each record by id; every record has every column, null where it has no value."""
    folder = path.resolve().parent.parent
    if not (folder / "workbench.db").is_file():
        fact = "needs the project that the snapshot was made in: metadata is kept there, not in the snapshot"
        raise ProjectError("--columns", fact, f"export from PROJECT/{path.resolve().parent.name}/{path.name}, or leave --columns out")
    with open_bench(folder) as bench:
        known = meta_columns(bench)
        if missing := next((name for name in columns if name not in known), None):
            there = ", ".join(known) or "no metadata columns"
            raise ProjectError(f"--columns {missing}", f"is no column of the imported rows; there are: {there}", "name one of them")
        values, wanted = records.meta_by_seq(bench.db, columns), set(ids)
        by_id = {identity: values.get(seq, {}) for seq, identity in records.ids_of(bench.db).items() if identity in wanted}
    return {identity: {name: by_id.get(identity, {}).get(name) for name in columns} for identity in ids}


def _trusted_by(key: Path | None, named: Sequence[Path]) -> str | None:
    """Say in words why the key of a signature is trusted."""
    if key is None:
        return None
    return f"--key {key}" if key in named else f"your trust store ({key})"


def _remedy(path: Path, status: str) -> str:
    """What makes a snapshot that may not be used usable, if anything does."""
    known = {
        "unsigned": command("curate", "sign", path),
        "intact, signer unknown": "curate trust KEY.pub, with the public key that the signer gave you",
        "foreign key": "curate trust KEY.pub, with the public key that the signer gave you, if you trust it",
        "revoked": "curate snapshot, for a new one without what was wrong",
    }
    return known.get(status, "take it again from where it came, or write a new one with curate snapshot")


def _check_sample(bench: Bench, sample: Sample) -> None:
    """Refuse to freeze rows whose review sample is not answered, or came out worse than the project allows."""
    if sample.releases or not sample.drawn:
        return
    what = f"a snapshot of {sample.kind} rows"
    if sample.is_answered:
        fact = f"is held back by review.max_error {sample.max_error:.1%}: {sample.sentence}"
        raise SnapshotError(what, fact, "correct the rows, raise review.sample for a narrower interval, or set review.mode: all")
    pushed = reviews.pushed_seqs(bench.db)
    verb = "pull" if sample.drawn <= pushed else "push"
    raise SnapshotError(what, f"needs the review sample: {sample.waiting:,} of its {len(sample.drawn):,} rows are not answered",
                        command("curate", verb, bench.folder))  # fmt: skip


def _nothing_approved(bench: Bench, kind: Kind) -> SnapshotError:
    """Says how far the rows are, and the verb that brings them on."""
    seen, verdicts = reviews.pushed_seqs(bench.db), facts.verdicts_by_seq(bench.db)
    found = Counter(verdicts.get(row.seq, {}).get("verdict", "undecided") for row in records.list_rows(bench.db, kind))
    waiting = found["to_review"] + found["in_review"]
    counts = ", ".join(f"{n} {verdict.replace('_', ' ')}" for verdict, n in found.most_common())
    verb = "status" if not waiting else "pull" if seen else "push"
    fact = f"would be empty: no row is approved ({counts or f'there are no {kind} rows'})"
    return SnapshotError(f"a snapshot of {kind} rows", fact, command("curate", verb, bench.folder))


def _last_gate(bench: Bench, rows: Sequence[Row], protected: Sequence[ProtectedItems]) -> dict[int, str]:
    """Rows that may not leave after all, with the reason; a person's keep outranks it, as everywhere."""
    from curation.dedup import find_exact, find_near

    kept = facts.kept_seqs(bench.db)
    stopped = {f.seq: f.kind for f in (*leak_findings(bench, rows, protected).findings, *check_findings(bench, rows)) if f.seq not in kept}
    # One text under two labels teaches neither, whoever approved them: both wait until a person keeps one.
    both = [seq for f in conflict_findings(bench, rows) for seq in (f.seq, f.twin) if seq is not None and seq not in kept]
    stopped |= dict.fromkeys(both, "conflict")
    texts, labels = texts_for_dedup(bench, (row.texts for row in rows)), [label_of(bench, row) for row in rows]
    given: dict[str, Any] = {"labels": labels if any(labels) else None}
    for table in (
        find_exact(texts, **given),
        find_near(texts, threshold=bench.project.dedup.near, shingle=bench.project.dedup.shingle, **given),
    ):
        stopped |= {rows[n].seq: "duplicate" for n in table["row"].to_pylist() if rows[n].seq not in kept}
    return stopped


def _check_filled(splits: Mapping[str, Sequence[Row]], separation: Separation) -> None:
    """Before a split is stored, for a split once stored stays: a person must still be able to change the shares."""
    for split in ("train", "validation"):
        if not splits[split]:
            counts = ", ".join(f"{name} {len(rows)}" for name, rows in splits.items())
            how = f"approve more rows, or raise `splits: {split}` in project.yaml"
            if separation.is_large:
                how += f"; {separation.largest} rows are connected by similar prompts: raise `splits: near` or `splits: semantic`"
            raise SnapshotError(f"split {split}", f"would be empty ({counts})", how)


def _split(bench: Bench, kept: Sequence[Row]) -> tuple[dict[str, list[Row]], Separation, list[tuple[int, str, str]]]:
    """Return the rows by split, what was measured between the splits, and which splits are new and to be stored.

    Earlier rows of both kinds hold their clusters in place. A row that is similar to one in another split all the same is left out.
    """
    frozen = facts.splits_by_seq(bench.db)
    wanted, everyone = {row.seq for row in kept}, list(kept)
    if frozen:
        everyone = [row for kind in KINDS for row in records.list_rows(bench.db, kind) if row.seq in frozen or row.seq in wanted]
    settings, prompts = bench.project.splits, [row.prompt for row in everyone]
    vectors, why = _vectors_for_splits(bench, prompts)
    parted = part_rows(
        prompts,
        [row.id for row in everyone],
        groups=merge_groups([row.seed_group for row in everyone], group_values(bench, everyone)),
        frozen=[frozen.get(row.seq, (None, ""))[0] for row in everyone],
        shares={"train": settings.train, "validation": settings.validation, "test": settings.test},
        threshold=settings.near,
        vectors=vectors,
        cosine=settings.semantic,
    )
    here = [n for n, row in enumerate(everyone) if row.seq in wanted and parted.assigned[n][0] is not None]
    across = find_across(
        [prompts[n] for n in here],
        [str(parted.assigned[n][0]) for n in here],
        cut=parted.cut[here],
        threshold=settings.near,
        vectors=None if vectors is None else vectors[here],
        cosine=settings.semantic,
    )
    out = {here[place] for place in across.left_out.tolist()}
    parts: dict[str, list[Row]] = {"train": [], "validation": [], "test": []}
    new = []
    for n in (n for n in here if n not in out):
        split, cluster = parted.assigned[n]
        assert split is not None
        parts[split].append(everyone[n])
        if everyone[n].seq not in frozen:
            new.append((everyone[n].seq, split, cluster))
    order = {row.seq: place for place, row in enumerate(kept)}
    parts = {split: sorted(rows, key=lambda row: order[row.seq]) for split, rows in parts.items()}
    separation = Separation(
        near=settings.near, semantic=settings.semantic if vectors is not None else None, model=bench.project.dedup.model,
        near_pairs=across.near_pairs, semantic_pairs=across.semantic_pairs, at_least=across.at_least, why=why,
        left_out=len(kept) - len(here) + len(out), twins_left_out=len(out), rows=len(everyone),
        largest=parted.largest, is_large=parted.is_large, in_cut_clusters=int((parted.cut >= 0).sum()),
    )  # fmt: skip
    return parts, separation, new


def _vectors_for_splits(bench: Bench, prompts: Sequence[str]) -> tuple[Any, str]:
    """Return the vectors of the prompts, or None and why they are not compared by meaning."""
    if bench.project.splits.semantic is None:
        return None, "splits.semantic is off"
    if bench.project.dedup.semantic is None:
        return None, "the project embeds nothing (dedup.semantic is off)"
    try:
        return vectors_of(bench, prompts), ""
    except ModelUnavailable as error:
        return None, f"{error.what} {error.fact}"


def _record_beside(path: Path, stage: str, digest: str, rows: int, detail: Mapping[str, Any]) -> list[str]:
    """Note in the project around a snapshot, where there is one, that a stage ran on it; says so where that cannot be written."""
    folder = path.resolve().parent.parent
    if not (folder / "workbench.db").is_file():
        return []
    try:
        with open_bench(folder) as bench, runs.record_run(bench.db, stage, digest) as run:
            run.rows_in = run.rows_out = rows
            run.detail = json.loads(json.dumps(dict(detail), default=str))
    except ProjectError as error:  # the folder is read-only, say: what was asked for is done all the same
        return [f"The project beside it has no record of this: {error.what} {error.fact}."]
    return []
