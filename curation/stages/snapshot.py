"""What a snapshot's folder is made of, and whether one with the same rows serves as well. Core: snapshot/."""

from __future__ import annotations

import importlib.metadata
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa

from argilla_setup.shown import mask_secrets, mask_values
from curation import judge as scoring
from curation import snapshot as snapshots
from curation.config.project import is_open, settings_digest
from curation.distribution import preference_bias
from curation.errors import ModelUnavailable, ProjectError, SnapshotError, command
from curation.records import KINDS, Kind
from curation.report import CardInput, Separation, render_card, render_croissant, render_report
from curation.snapshot import Manifest
from curation.snapshot.write import schema_of
from curation.split import find_across, merge_groups, part_rows
from curation.store import facts, records, reviews, runs
from curation.store.database import hold_lock
from curation.store.records import Row
from curation.views.annotations import published_names, review_counts
from curation.views.classes import balance_facts, group_values, rows_past_cap
from curation.views.decisions import decide_all
from curation.views.description import describe_leaving, in_brief, main_language
from curation.views.pairs import frozen_pairs
from curation.views.prior_snapshots import keep_sketches
from curation.views.protected import ProtectedItems, load_protected
from curation.views.provenance import governing_licence, models_of, sources_of, stages_of
from curation.views.report import report_data
from curation.views.review_sample import Sample
from curation.views.scores import judged_by
from curation.views.screening import check_findings, conflict_findings, leak_findings
from curation.views.staleness import find_stale
from curation.views.vectors import vectors_of
from curation.workspace import StageResult, Workspace, label_of, open_workspace, texts_for_dedup

PACKAGES = ("seedcorn", "argilla", "datasketch", "faiss-cpu", "pyarrow", "sentence-transformers")

_PART = 20_000

TOLD = {
    "protected": "changed protected sets",
    "review": "a changed review or other reviewers",
    "intended_use": "a changed intended use",
    "licence": "a changed license",
    "provenance": "changed facts about the sources",
}
"""What a manifest says beside the rows; where one of these has changed, the same rows are frozen again under the next version."""


@dataclass(frozen=True)
class Frozen:
    """Where the rows stand now, and what a person should know of it."""

    path: Path
    note: str = ""


def freeze(
    workspace: Workspace,
    kind: Kind,
    *,
    name: str,
    parts: Mapping[str, Sequence[Row]],
    better: Mapping[int, int | None],
    protected: Sequence[ProtectedItems],
    stopped: Mapping[int, str],
    separation: Separation,
    sample: Sample | None = None,
) -> Frozen:
    """Write the splits as the next version of NAME, unless a whole folder of that name says the same of the same rows.

    Args:
        better: canonical index of the better answer of each pair, by seq.
        stopped: rows that the last gate holds back, with the reason.
        separation: what was measured between the splits.
        sample: what people looked at for all rows, in a project that samples.
    """
    tables = {split: _table(kind, rows, better) for split, rows in parts.items()}
    digest = snapshots.content_digest({split: table for split, table in tables.items() if table.num_rows})
    leaving = [row for rows in parts.values() for row in rows]
    said = _manifest_facts(workspace, kind, leaving, protected, stopped, sample)
    earlier, note = _earlier(workspace, name, digest, said)
    if earlier is None:
        version = 1 + max(_versions(workspace, name), default=0)
        earlier = _write(workspace, kind, name=name, version=version, tables=tables, leaving=leaving, digest=digest, said=said,
                         separation=separation)  # fmt: skip
    _remember(workspace, earlier)
    return Frozen(earlier, note)


def _earlier(workspace: Workspace, name: str, digest: str, said: Mapping[str, Any]) -> tuple[Path | None, str]:
    """The latest snapshot of these very rows that may stand for them, or none; and why, in a sentence."""
    same = [
        p for p in snapshots.find_snapshots(workspace.folder / "snapshots") if _version_of(p, name) and p.name.endswith(f"-{digest[:8]}")
    ]
    for path in reversed(same):
        checked = snapshots.verify_snapshot(path, trusted_keys=())
        if checked.status == "revoked":
            fact = f"{checked.problems[0].fact}; the rows are the same"
            raise SnapshotError(str(path), fact, "remove the faulty rows with `curate drop`, and run again")
        if checked.status not in ("unsigned", "intact, signer unknown"):
            return None, f"The rows of {path.name} are unchanged, but its files were altered; a new version was written."
        if changed := _changed(snapshots.read_manifest(path), said):
            return None, f"Same rows as {path.name}; a new version was written because of {' and '.join(changed)}."
        return path, "A snapshot of these rows already exists; nothing was written."
    return None, ""


def _changed(manifest: Manifest, said: Mapping[str, Any]) -> list[str]:
    """In words, what the manifest tells that is not so any more."""
    was = manifest.model_dump(mode="json")
    people = {"mode", "sample", "simulated", "reviewers"}
    now = {**said, "review": {key: said["review"][key] for key in people}}
    was["review"] = {key: was["review"][key] for key in people}
    return [words for part, words in TOLD.items() if settings_digest(was[part]) != settings_digest(now[part])]


def _continued(workspace: Workspace, name: str, digest: str) -> list[str]:
    """The digest of the newest earlier version of a name that has other rows; empty for the first."""
    earlier = [s for s in reviews.list_snapshots(workspace.db) if s["name"] == name and s["digest"] != digest]
    return [max(earlier, key=lambda s: int(s["version"]))["digest"]] if earlier else []


def _versions(workspace: Workspace, name: str) -> list[int]:
    """The numbers that are taken, by folders on the disk and by those that were there once."""
    known = [s["version"] for s in reviews.list_snapshots(workspace.db) if s["name"] == name]
    return known + [_version_of(path, name) for path in snapshots.find_snapshots(workspace.folder / "snapshots")]


def _version_of(path: Path, name: str) -> int:
    """The version in a folder's name; 0 where it is of another name."""
    found = re.fullmatch(rf"{re.escape(name)}-v(\d+)-[0-9a-f]{{8}}", path.name)
    return int(found[1]) if found else 0


def _remember(workspace: Workspace, path: Path) -> None:
    """Also one whose process was killed right after the folder stood."""
    manifest = snapshots.read_manifest(path)
    reviews.add_snapshot(
        workspace.db, digest=manifest.digest.root, name=manifest.name, version=manifest.version, kind=manifest.kind,
        path=str(path.relative_to(workspace.folder)), rows=sum(split.rows for split in manifest.splits.values()),
    )  # fmt: skip


def _table(kind: Kind, rows: Sequence[Row], better: Mapping[int, int | None]) -> pa.Table:
    # A part at a time: as Python's values the rows are several times the size of the table.
    parts = [_part(kind, rows[start : start + _PART], better) for start in range(0, len(rows), _PART)]
    return pa.concat_tables(parts) if parts else schema_of(kind).empty_table()


def _part(kind: Kind, rows: Sequence[Row], better: Mapping[int, int | None]) -> pa.Table:
    columns: dict[str, list[Any]] = {name: [] for name in schema_of(kind).names}
    for row in rows:
        content = orjson.loads(row.body)  # as it is; the snapshot checks that it is the record of this id
        columns["id"].append(row.id)
        columns["prompt"].append(content["prompt"])
        if kind == "instruction":
            columns["completion"].append([content["completion"]])
            columns["label"].append(content["label"])
        else:
            chosen = better[row.seq]
            assert chosen is not None
            columns["chosen"].append([content["completions"][chosen]])
            columns["rejected"].append([content["completions"][1 - chosen]])
    return pa.table(columns, schema=schema_of(kind))


def _write(
    workspace: Workspace,
    kind: Kind,
    *,
    name: str,
    version: int,
    tables: Mapping[str, pa.Table],
    leaving: Sequence[Row],
    digest: str,
    said: Mapping[str, Any],
    separation: Separation,
) -> Path:
    created = datetime.now(UTC).replace(microsecond=0)
    counts = {split: table.num_rows for split, table in tables.items()}
    clean = preference_bias.describe_pairs(frozen_pairs(tables)) if kind == "preference" else None
    described = describe_leaving(workspace, kind, leaving)
    card = CardInput(
        name=name, version=version, kind=kind, created=created, splits=counts, digest=digest, licence=said["licence"],
        intended_use=said["intended_use"], brief=mask_secrets(workspace.project.brief), models=said["models"], review=said["review"],
        settings=said["settings"], protected=tuple(said["protected"]), counts=said["counts"], hygiene=clean, description=described,
        language=main_language(described), separation=separation, provenance=said["provenance"],
    )  # fmt: skip
    measured = {
        "splits": separation.model_dump(mode="json"),
        "distribution": in_brief(described),
        **({"pairs": preference_bias.as_values(clean)} if clean else {}),
    }
    told = {
        **said,
        "parents": _continued(workspace, name, digest),
        "counts": {**said["counts"], **measured},
        "settings": {**said["settings"], "balance": balance_facts(workspace, kind, leaving)},
    }
    return snapshots.write_snapshot(
        workspace.folder / "snapshots", name=name, version=version, kind=kind, splits=tables, facts=told, card=render_card(card),
        report_html=render_report(report_data(workspace, names=published_names(workspace)), protected_text=False),
        croissant=partial(render_croissant, card), created=created,
    )  # fmt: skip


def _manifest_facts(
    workspace: Workspace,
    kind: Kind,
    leaving: Sequence[Row],
    protected: Sequence[ProtectedItems],
    stopped: Mapping[int, str],
    sample: Sample | None,
) -> dict[str, Any]:
    project, review, names = workspace.project, review_counts(workspace, (kind,)), published_names(workspace)
    provenance = sources_of(workspace, leaving)
    kind_of = records.kinds_by_seq(workspace.db)
    verdicts = Counter(v["verdict"] for seq, v in facts.verdicts_by_seq(workspace.db).items() if kind_of[seq] == kind)
    stated = {
        "protected": [
            {"name": p.name, "file": p.file.name, "sha256": p.sha256, "items": len(p.texts), "text": p.suite.text, "label": p.suite.label}
            for p in protected
        ],
        "review": {
            "mode": project.review.mode, "sample": sample.as_values() if sample else None,
            "simulated": review["simulated"], "names": project.review.names,
            "reviewers": sorted(names[user] for user in review["reviewers"]), "overlap": project.review.overlap,
            "agreement": review["agreement"], "answers": review["opinions"], "disputed": review["disputed"],
        },
        "models": models_of(workspace, kind, leaving),
        "intended_use": project.intended_use.strip(),
        "provenance": provenance,
        "licence": governing_licence(provenance),
        "lineage": stages_of(workspace),
        "settings": {
            "score": None if project.score.is_off else {
                "threshold": project.score.threshold, "top_percent": project.score.top_percent,
                "top_by": project.score.top_by, "rubric": scoring.rubric_digest(project),
                "judges": {judge.name: scoring.rubric_digest(project, judge.spec) for judge in judged_by(workspace) if judge.totals},
            },
            "dedup": project.dedup.model_dump(),
            "leaks": {"false_positive_rate": project.screen.false_positive_rate},
            "splits": project.splits.model_dump(),
            "project": settings_digest(mask_values(project.model_dump(mode="json"))),
        },
        "counts": {**verdicts, "stopped_at_last_gate": len(stopped)},
        "versions": {package: importlib.metadata.version(package) for package in PACKAGES},
    }  # fmt: skip
    masked: dict[str, Any] = mask_values(stated)  # a password in an address (dedup.index) must not be signed and given away
    return masked


def snapshot(folder: Path, kind: Kind, *, name: str | None = None) -> StageResult:
    """Freeze the approved rows of a kind, after the gates have run once more on exactly the text that leaves. Core: snapshot/."""
    with open_workspace(folder) as workspace, hold_lock(workspace.db, "snapshot"):
        if stale := find_stale(workspace, ("dedup", "screen")):
            raise SnapshotError(f"a snapshot of {kind} rows", f"would use old findings: {stale[0].stage} is stale ({stale[0].why})",
                                stale[0].next_step)  # fmt: skip
        decided = decide_all(workspace)
        decisions, sample = {d.seq: d for d in decided.decisions if d.verdict == "approved"}, decided.samples.get(kind)
        if sample is not None:
            _check_sample(workspace, sample)
        # The gates read the answer that leaves as the better one, which annotators or a data lead may have chosen against its maker.
        rows = [row._replace(better=decisions[row.seq].better) for row in records.list_rows(workspace.db, kind) if row.seq in decisions]
        if not rows:
            raise _nothing_approved(workspace, kind)
        if is_open(workspace.project.intended_use):
            what = f"{folder}/project.yaml: intended_use"
            raise ProjectError(what, "is not filled in, and every snapshot records it", "write what the model is for, and run again")
        protected = load_protected(workspace)
        with runs.record_run(workspace.db, "snapshot", settings_digest(kind, [row.id for row in rows])) as run:
            run.rows_in = len(rows)
            stopped = _last_gate(workspace, rows, protected)
            past_cap = rows_past_cap(workspace, kind, [row for row in rows if row.seq not in stopped])
            stopped |= dict.fromkeys(past_cap, "over_cap")
            kept = [row for row in rows if row.seq not in stopped]
            splits, separation, new = _split(workspace, kept)
            _check_filled(splits, separation)
            facts.add_splits(workspace.db, new, run.number)
            better = {row.seq: decisions[row.seq].better for row in kept}
            called = name or f"{workspace.project.name}-{kind}"
            known = {Path(one["path"]).name for one in reviews.list_snapshots(workspace.db)}
            frozen = freeze(
                workspace, kind, name=called, parts=splits, better=better, protected=protected, stopped=stopped, separation=separation,
                sample=sample,
            )  # fmt: skip
            released = [row for part in splits.values() for row in part]
            if frozen.path.name not in known:  # of one frozen before, dedup makes missing sketches itself
                keep_sketches(workspace, frozen.path, kind, released, watermark=records.last_seq(workspace.db))
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
        return StageResult("snapshot", run.rows_in, run.rows_out, counts, notes)


def _provenance_counts(manifest: Manifest) -> dict[str, Any]:
    """Who wrote the rows, where they come from, and under which licence, for the screen."""
    if (found := manifest.provenance) is None:
        return {}
    sources = {f"{source.name} ({source.license})": source.rows for source in found.sources}
    return {"written_by": dict(found.written_by), **({"sources": sources} if sources else {}), "licence": manifest.licence,
            "review": manifest.review.mode}  # fmt: skip


def _check_sample(workspace: Workspace, sample: Sample) -> None:
    """Refuse to freeze rows whose review sample is not answered, or came out worse than the project allows."""
    if sample.releases or not sample.drawn:
        return
    what = f"a snapshot of {sample.kind} rows"
    if sample.is_answered:
        fact = f"is blocked by review.max_error {sample.max_error:.1%}: {sample.sentence}"
        raise SnapshotError(what, fact, "correct the rows, raise review.sample for a narrower interval, or set review.mode: all")
    pushed = reviews.pushed_seqs(workspace.db)
    verb = "pull" if sample.drawn <= pushed else "push"
    raise SnapshotError(what, f"needs the review sample: {sample.waiting:,} of its {len(sample.drawn):,} rows are not answered",
                        command("curate", verb, workspace.folder))  # fmt: skip


def _nothing_approved(workspace: Workspace, kind: Kind) -> SnapshotError:
    """Says how far the rows are, and the verb that brings them on."""
    seen, verdicts = reviews.pushed_seqs(workspace.db), facts.verdicts_by_seq(workspace.db)
    found = Counter(verdicts.get(row.seq, {}).get("verdict", "undecided") for row in records.list_rows(workspace.db, kind))
    waiting = found["to_review"] + found["in_review"]
    counts = ", ".join(f"{n} {verdict.replace('_', ' ')}" for verdict, n in found.most_common())
    verb = "status" if not waiting else "pull" if seen else "push"
    fact = f"would be empty: no row is approved ({counts or f'there are no {kind} rows'})"
    return SnapshotError(f"a snapshot of {kind} rows", fact, command("curate", verb, workspace.folder))


def _last_gate(workspace: Workspace, rows: Sequence[Row], protected: Sequence[ProtectedItems]) -> dict[int, str]:
    """Rows that may not leave after all, with the reason; a person's keep outranks it, as everywhere."""
    from curation.dedup import find_exact, find_near

    kept = facts.kept_seqs(workspace.db)
    stopped = {
        f.seq: f.kind for f in (*leak_findings(workspace, rows, protected).findings, *check_findings(workspace, rows)) if f.seq not in kept
    }
    # One text under two labels teaches neither, whoever approved them: both wait until a person keeps one.
    both = [seq for f in conflict_findings(workspace, rows) for seq in (f.seq, f.twin) if seq is not None and seq not in kept]
    stopped |= dict.fromkeys(both, "conflict")
    texts, labels = texts_for_dedup(workspace, (row.texts for row in rows)), [label_of(workspace, row) for row in rows]
    given: dict[str, Any] = {"labels": labels if any(labels) else None}
    for table in (
        find_exact(texts, **given),
        find_near(texts, threshold=workspace.project.dedup.near, shingle=workspace.project.dedup.shingle, **given),
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


def _split(workspace: Workspace, kept: Sequence[Row]) -> tuple[dict[str, list[Row]], Separation, list[tuple[int, str, str]]]:
    """Return the rows by split, what was measured between the splits, and which splits are new and to be stored.

    Earlier rows of both kinds hold their clusters in place. A row that is similar to one in another split all the same is left out.
    """
    frozen = facts.splits_by_seq(workspace.db)
    wanted, everyone = {row.seq for row in kept}, list(kept)
    if frozen:
        everyone = [row for kind in KINDS for row in records.list_rows(workspace.db, kind) if row.seq in frozen or row.seq in wanted]
    settings, prompts = workspace.project.splits, [row.prompt for row in everyone]
    vectors, why = _vectors_for_splits(workspace, prompts)
    parted = part_rows(
        prompts,
        [row.id for row in everyone],
        groups=merge_groups([row.seed_group for row in everyone], group_values(workspace, everyone)),
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
        near=settings.near, semantic=settings.semantic if vectors is not None else None, model=workspace.project.dedup.model,
        near_pairs=across.near_pairs, semantic_pairs=across.semantic_pairs, at_least=across.at_least, why=why,
        left_out=len(kept) - len(here) + len(out), twins_left_out=len(out), rows=len(everyone),
        largest=parted.largest, is_large=parted.is_large, in_cut_clusters=int((parted.cut >= 0).sum()),
    )  # fmt: skip
    return parts, separation, new


def _vectors_for_splits(workspace: Workspace, prompts: Sequence[str]) -> tuple[Any, str]:
    """Return the vectors of the prompts, or None and why they are not compared by meaning."""
    if workspace.project.splits.semantic is None:
        return None, "splits.semantic is off"
    if workspace.project.dedup.semantic is None:
        return None, "the project embeds nothing (dedup.semantic is off)"
    try:
        return vectors_of(workspace, prompts), ""
    except ModelUnavailable as error:
        return None, f"{error.what} {error.fact}"
