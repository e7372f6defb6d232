"""The stages that freeze and prove: snapshot, sign, verify, export. Core: snapshot/, split.py, formats/."""

from __future__ import annotations

import importlib.metadata
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa

from curation import hygiene
from curation import score as scoring
from curation import snapshot as snapshots
from curation.errors import ProjectError, SnapshotError
from curation.formats import ExportFormat, write_rows
from curation.pipeline.balancing import balance_facts, rows_past_cap
from curation.pipeline.bench import Bench, Summary, label_of, load_protected, open_bench
from curation.pipeline.deciding import decide_rows
from curation.pipeline.describing import describe_leaving, in_brief, main_language
from curation.pipeline.duplicates import texts_for_dedup
from curation.pipeline.facts_for_report import report_data
from curation.pipeline.facts_of_pairs import frozen_pairs
from curation.pipeline.judged import judged_by
from curation.pipeline.protecting import ProtectedItems
from curation.pipeline.reviewing import review_counts
from curation.pipeline.screening import check_findings, leak_findings
from curation.project import is_open, settings_digest
from curation.records import KINDS, Kind, prompt_text
from curation.report import CardInput, render_card, render_croissant, render_report
from curation.snapshot.write import schema_of
from curation.split import split_rows
from curation.store import facts, hold_lock, records, reviews, runs
from curation.store.records import Row

PACKAGES = ("seedcorn", "argilla", "datasketch", "faiss-cpu", "pyarrow", "sentence-transformers")


def snapshot(folder: Path, kind: Kind, *, name: str | None = None) -> Summary:
    """Freeze the approved rows of a kind, after the gates have run once more on exactly the text that leaves. Core: snapshot/."""
    with open_bench(folder) as bench, hold_lock(bench.db, "snapshot"):
        decisions = {d.seq: d for d in decide_rows(bench) if d.verdict == "approved"}
        rows = [row for row in records.list_rows(bench.db, kind) if row.seq in decisions]
        if not rows:
            raise SnapshotError(f"a snapshot of {kind} rows", "would be empty: no row is approved", f"curate status {folder}")
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
            splits, left_out, new = _split(bench, kept)
            _check_filled(splits)
            facts.add_splits(bench.db, new, run.number)
            better = {row.seq: decisions[row.seq].better for row in kept}
            leaving = [row for part in splits.values() for row in part]
            tables = {split: _table(bench, kind, part, better) for split, part in splits.items()}
            path, is_new = _freeze(
                bench,
                kind,
                name or f"{bench.project.name}-{kind}",
                tables,
                protected,
                stopped,
                leaving,
            )
            run.rows_out = sum(table.num_rows for table in tables.values())
            run.detail = {"kind": kind, "path": path.name, "stopped": Counter(stopped.values()), "left_out": left_out}
        counts = {
            "path": str(path), "digest": snapshots.read_manifest(path).digest.root,
            **{split: table.num_rows for split, table in tables.items()},
            "stopped_at_last_gate": dict(Counter(stopped.values())), "left_out_of_splits": left_out,
        }  # fmt: skip
        notes = [] if is_new else ["These very rows are already frozen; nothing was written."]
        return Summary("snapshot", run.rows_in, run.rows_out, counts, [*notes, f"Next: curate sign {path}"])


def sign(path: Path, *, key: Path | None = None) -> Summary:
    """Sign a snapshot with your key, made on first use. Core: snapshot/."""
    private = key or snapshots.config_folder() / "keys" / "signing.pem"
    if key is None and not private.is_file():
        snapshots.add_trusted_key(snapshots.create_key(private.parent)[1], name="own")
    snapshots.sign_snapshot(path, private)
    manifest = snapshots.read_manifest(path)
    rows = sum(split.rows for split in manifest.splits.values())
    public = _public_of(private)
    counts = {"path": str(path), "signer": snapshots.describe_signer(public), "public_key": str(public)}
    _record_beside(path, "sign", manifest.digest.root, rows, counts)
    notes = [f"Others verify it with: curate verify {path} --key {public}"]
    return Summary("sign", rows, rows, counts, notes)


def verify(path: Path, *, keys: Sequence[Path] = (), deep: bool = False) -> Summary:
    """Say whether a snapshot is whole and whose it is. Core: snapshot/."""
    trusted = [*keys, *snapshots.find_trusted_keys(), *_project_keys(path)]
    result = snapshots.verify_snapshot(path, trusted_keys=trusted, deep=deep)
    if result.status == "no snapshot":
        raise SnapshotError(str(path), "; ".join(problem.fact for problem in result.problems), "name a folder that `curate snapshot` wrote")
    counts = {"path": str(path), "status": result.status, "signer": result.signer, "verified": result.is_verified, "deep": deep}
    if result.is_verified:
        manifest = snapshots.read_manifest(path)
        rows = sum(split.rows for split in manifest.splits.values())
        _record_beside(path, "verify", manifest.digest.root, rows, counts)
        return Summary("verify", rows, rows, counts)
    return Summary("verify", 0, 0, counts, [str(problem) for problem in result.problems])


def export(path: Path, target: Path, *, shape: ExportFormat, split: str = "train", keys: Sequence[Path] = ()) -> Summary:
    """Write a split of a verified snapshot as JSONL for people who train elsewhere. Core: formats/."""
    trusted = [*keys, *snapshots.find_trusted_keys(), *_project_keys(path)]
    found = snapshots.load_snapshot(path, trusted_keys=trusted)
    if split not in found.manifest.splits:
        raise SnapshotError(f"{path}: split {split}", "is not there", f"choose one of {', '.join(found.manifest.splits)}")
    written = write_rows(found.table(split), target, shape, system_instruction=None)  # type: ignore[arg-type]
    _record_beside(path, "export", found.manifest.digest.root, written, {"file": target.name, "format": shape})
    return Summary("export", written, written, {"file": str(target), "format": shape, "split": split})


def _last_gate(bench: Bench, rows: Sequence[Row], protected: Sequence[ProtectedItems]) -> dict[int, str]:
    """Rows that may not leave after all, with the reason; a person's keep outranks it, as everywhere."""
    from curation.dedup import find_exact, find_near

    kept = {seq for seq, o in facts.overrides_by_seq(bench.db).items() if o["action"] == "keep"}
    stopped = {f.seq: f.kind for f in (*leak_findings(bench, rows, protected)[0], *check_findings(bench, rows)) if f.seq not in kept}
    texts, labels = texts_for_dedup(bench, rows), [label_of(bench, row) for row in rows]
    given: dict[str, Any] = {"labels": labels if any(labels) else None}
    for table in (
        find_exact(texts, **given),
        find_near(texts, threshold=bench.project.dedup.near, shingle=bench.project.dedup.shingle, **given),
    ):
        stopped |= {rows[n].seq: "duplicate" for n in table["row"].to_pylist() if rows[n].seq not in kept}
    return stopped


def _check_filled(splits: Mapping[str, Sequence[Row]]) -> None:
    """Before a split is stored, for a split once stored stays: a person must still be able to change the shares."""
    for split in ("train", "validation"):
        if not splits[split]:
            counts = ", ".join(f"{name} {len(rows)}" for name, rows in splits.items())
            raise SnapshotError(
                f"split {split}", f"would be empty ({counts})", f"approve more rows, or raise `splits: {split}` in project.yaml"
            )


def _split(bench: Bench, kept: Sequence[Row]) -> tuple[dict[str, list[Row]], int, list[tuple[int, str, str]]]:
    """Rows by split, how many were left out, and what is new to be stored.

    Earlier rows of both kinds hold their clusters in place, so twins never end up on two sides.
    """
    frozen = facts.splits_by_seq(bench.db)
    wanted = {row.seq for row in kept}
    everyone = [row for kind in KINDS for row in records.list_rows(bench.db, kind) if row.seq in frozen or row.seq in wanted]
    shares = bench.project.splits
    assigned = split_rows(
        [prompt_text(row.record) for row in everyone],
        [row.id for row in everyone],
        groups=[row.seed_group for row in everyone],
        frozen=[frozen.get(row.seq, (None, ""))[0] for row in everyone],
        shares={"train": shares.train, "validation": shares.validation, "test": shares.test},
        threshold=bench.project.dedup.near,
    )
    new = [(row.seq, split, cluster) for row, (split, cluster) in zip(everyone, assigned, strict=True) if split and row.seq not in frozen]
    split_of = {row.seq: split for row, (split, _) in zip(everyone, assigned, strict=True)}
    parts: dict[str, list[Row]] = {"train": [], "validation": [], "test": []}
    for row in kept:
        split = split_of[row.seq]
        if split:
            parts[split].append(row)
    return parts, sum(split_of[row.seq] is None for row in kept), new


def _table(bench: Bench, kind: Kind, rows: Sequence[Row], better: Mapping[int, int | None]) -> pa.Table:
    values = []
    for row in rows:
        record = row.record
        line: dict[str, Any] = {"id": row.id, "prompt": [m.model_dump() for m in record.prompt]}
        if record.kind == "instruction":
            line |= {"completion": [record.completion.model_dump()], "label": record.label}
        else:
            chosen = better[row.seq]
            assert chosen is not None
            line |= {"chosen": [record.completions[chosen].model_dump()], "rejected": [record.completions[1 - chosen].model_dump()]}
        values.append(line)
    return pa.Table.from_pylist(values, schema=schema_of(kind))


def _freeze(
    bench: Bench,
    kind: Kind,
    name: str,
    tables: Mapping[str, pa.Table],
    protected: Sequence[ProtectedItems],
    stopped: Mapping[int, str],
    leaving: Sequence[Row],
) -> tuple[Path, bool]:
    digest = snapshots.content_digest({split: table for split, table in tables.items() if table.num_rows})
    known = {s["digest"]: s for s in reviews.list_snapshots(bench.db)}
    if digest in known and (bench.folder / known[digest]["path"]).is_dir():
        return bench.folder / known[digest]["path"], False
    version = 1 + max((s["version"] for s in known.values() if s["name"] == name), default=0)
    created = datetime.now(UTC).replace(microsecond=0)
    counts = {split: table.num_rows for split, table in tables.items()}
    manifest_facts = _manifest_facts(bench, kind, protected, stopped)
    clean = hygiene.describe_pairs(frozen_pairs(tables)) if kind == "preference" else None
    card = CardInput(
        name=name, version=version, kind=kind, created=created, splits=counts, digest=digest, licence=bench.project.licence,
        intended_use=bench.project.intended_use, brief=bench.project.brief, models=manifest_facts["models"],
        review=manifest_facts["review"], settings=manifest_facts["settings"], protected=tuple(manifest_facts["protected"]),
        counts=dict(manifest_facts["counts"]), hygiene=clean, description=(described := describe_leaving(bench, kind, leaving)),
        language=main_language(described),
    )  # fmt: skip
    if clean:
        manifest_facts["counts"]["pairs"] = hygiene.as_values(clean)
    manifest_facts["counts"]["distribution"] = in_brief(described)
    manifest_facts["settings"]["balance"] = balance_facts(bench, kind, leaving)
    path = snapshots.write_snapshot(
        bench.folder / "snapshots", name=name, version=version, kind=kind, splits=tables, facts=manifest_facts, card=render_card(card),
        report_html=render_report(report_data(bench), protected_text=False),
        croissant=partial(render_croissant, card), created=created,
    )  # fmt: skip
    reviews.add_snapshot(
        bench.db, digest=digest, name=name, version=version, kind=kind, path=str(path.relative_to(bench.folder)), rows=sum(counts.values())
    )
    return path, True


def _manifest_facts(bench: Bench, kind: Kind, protected: Sequence[ProtectedItems], stopped: Mapping[int, str]) -> dict[str, Any]:
    project, review = bench.project, review_counts(bench)
    simulated = "offline-stand-in" in (project.models.teacher.provider, project.models.judge.provider)
    verdicts = Counter(v["verdict"] for v in facts.verdicts_by_seq(bench.db).values())
    return {
        "protected": [
            {"name": p.name, "file": p.file.name, "sha256": p.sha256, "items": len(p.texts), "text": p.suite.text, "label": p.suite.label}
            for p in protected
        ],
        "review": {
            "simulated": review["simulated"], "reviewers": review["reviewers"], "overlap": project.review.overlap,
            "agreement": review["agreement"], "answers": review["opinions"], "disputed": review["disputed"],
        },
        "models": {"teacher": _model_name(project.models.teacher), "judge": _model_name(project.models.judge), "simulated": simulated},
        "intended_use": project.intended_use.strip(),
        "licence": project.licence,
        "settings": {
            "score": {
                "threshold": project.score.threshold, "top_percent": project.score.top_percent,
                "top_by": project.score.top_by, "rubric": scoring.rubric_digest(project),
                "judges": {judge.name: scoring.rubric_digest(project, judge.spec) for judge in judged_by(bench) if judge.totals},
            },
            "dedup": project.dedup.model_dump(),
            "leaks": {"false_positive_rate": project.screen.false_positive_rate},
            "splits": project.splits.model_dump(),
            "project": settings_digest(project),
        },
        "counts": {**verdicts, "stopped_at_last_gate": len(stopped)},
        "versions": {package: importlib.metadata.version(package) for package in PACKAGES},
    }  # fmt: skip


def _model_name(spec: Any) -> str:
    return f"{spec.model} (offline stand-in: made-up text)" if spec.provider == "offline-stand-in" else f"{spec.model} ({spec.provider})"


def _public_of(private: Path) -> Path:
    public = private.with_suffix(".pub")
    if not public.is_file():
        raise ProjectError(str(private), f"has no public key beside it ({public.name})", "curate sign --help")
    return public


def _project_keys(path: Path) -> list[Path]:
    """Keys the project around a snapshot trusts, where there is one."""
    from curation.project import load_project

    folder = path.resolve().parent.parent
    if not (folder / "project.yaml").is_file():
        return []
    return [folder / key for key in load_project(folder).signing.trusted_keys]


def _record_beside(path: Path, stage: str, digest: str, rows: int, detail: Mapping[str, Any]) -> None:
    """Note in the project around a snapshot, where there is one, that a stage ran on it."""
    folder = path.resolve().parent.parent
    if not (folder / "workbench.db").is_file():
        return
    with open_bench(folder) as bench:
        with runs.record_run(bench.db, stage, digest) as run:
            run.rows_in = run.rows_out = rows
            run.detail = json.loads(json.dumps(dict(detail), default=str))
