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
from curation import hygiene
from curation import score as scoring
from curation import snapshot as snapshots
from curation.errors import SnapshotError
from curation.pipeline.balancing import balance_facts
from curation.pipeline.bench import Bench
from curation.pipeline.describing import describe_leaving, in_brief, main_language
from curation.pipeline.facts_for_report import report_data
from curation.pipeline.facts_of_pairs import frozen_pairs
from curation.pipeline.judged import judged_by
from curation.pipeline.protecting import ProtectedItems
from curation.pipeline.provenance import governing_licence, models_of, sources_of, stages_of
from curation.pipeline.reviewing import published_names, review_counts
from curation.pipeline.sampling import Sample
from curation.project import settings_digest
from curation.records import Kind
from curation.report import CardInput, Separation, render_card, render_croissant, render_report
from curation.snapshot import Manifest
from curation.snapshot.write import schema_of
from curation.store import facts, records, reviews
from curation.store.records import Row

PACKAGES = ("seedcorn", "argilla", "datasketch", "faiss-cpu", "pyarrow", "sentence-transformers")
_PART = 20_000
TOLD = {
    "protected": "other protected sets",
    "review": "another review or other reviewers",
    "intended_use": "another intended use",
    "licence": "another licence",
    "provenance": "other facts about the sources",
}
"""What a manifest says beside the rows; where one of these has changed, the same rows are frozen again under the next version."""


@dataclass(frozen=True)
class Frozen:
    """Where the rows stand now, and what a person should know of it."""

    path: Path
    note: str = ""


def freeze(
    bench: Bench,
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
    said = _manifest_facts(bench, kind, leaving, protected, stopped, sample)
    earlier, note = _earlier(bench, name, digest, said)
    if earlier is None:
        version = 1 + max(_versions(bench, name), default=0)
        earlier = _write(bench, kind, name=name, version=version, tables=tables, leaving=leaving, digest=digest, said=said,
                         separation=separation)  # fmt: skip
    _remember(bench, earlier)
    return Frozen(earlier, note)


def _earlier(bench: Bench, name: str, digest: str, said: Mapping[str, Any]) -> tuple[Path | None, str]:
    """The latest snapshot of these very rows that may stand for them, or none; and why, in a sentence."""
    same = [p for p in snapshots.find_snapshots(bench.folder / "snapshots") if _version_of(p, name) and p.name.endswith(f"-{digest[:8]}")]
    for path in reversed(same):
        checked = snapshots.verify_snapshot(path, trusted_keys=())
        if checked.status == "revoked":
            fact = f"{checked.problems[0].fact}; these are the same rows"
            raise SnapshotError(str(path), fact, "take out with `curate drop` what is wrong with them, and run again")
        if checked.status not in ("unsigned", "intact, signer unknown"):
            return None, f"The same rows stand in {path.name}, which was altered since; they are frozen again."
        if changed := _changed(snapshots.read_manifest(path), said):
            return None, f"The same rows as {path.name}, frozen again because there are {' and '.join(changed)} now."
        return path, "These very rows are already frozen; nothing was written."
    return None, ""


def _changed(manifest: Manifest, said: Mapping[str, Any]) -> list[str]:
    """In words, what the manifest tells that is not so any more."""
    was = manifest.model_dump(mode="json")
    people = {"mode", "sample", "simulated", "reviewers"}
    now = {**said, "review": {key: said["review"][key] for key in people}}
    was["review"] = {key: was["review"][key] for key in people}
    return [words for part, words in TOLD.items() if settings_digest(was[part]) != settings_digest(now[part])]


def _continued(bench: Bench, name: str, digest: str) -> list[str]:
    """The digest of the newest earlier version of a name that has other rows; empty for the first."""
    earlier = [s for s in reviews.list_snapshots(bench.db) if s["name"] == name and s["digest"] != digest]
    return [max(earlier, key=lambda s: int(s["version"]))["digest"]] if earlier else []


def _versions(bench: Bench, name: str) -> list[int]:
    """The numbers that are taken, by folders on the disk and by those that were there once."""
    known = [s["version"] for s in reviews.list_snapshots(bench.db) if s["name"] == name]
    return known + [_version_of(path, name) for path in snapshots.find_snapshots(bench.folder / "snapshots")]


def _version_of(path: Path, name: str) -> int:
    """The version in a folder's name; 0 where it is of another name."""
    found = re.fullmatch(rf"{re.escape(name)}-v(\d+)-[0-9a-f]{{8}}", path.name)
    return int(found[1]) if found else 0


def _remember(bench: Bench, path: Path) -> None:
    """Also one whose process was killed right after the folder stood."""
    manifest = snapshots.read_manifest(path)
    reviews.add_snapshot(
        bench.db, digest=manifest.digest.root, name=manifest.name, version=manifest.version, kind=manifest.kind,
        path=str(path.relative_to(bench.folder)), rows=sum(split.rows for split in manifest.splits.values()),
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
    bench: Bench,
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
    clean = hygiene.describe_pairs(frozen_pairs(tables)) if kind == "preference" else None
    described = describe_leaving(bench, kind, leaving)
    card = CardInput(
        name=name, version=version, kind=kind, created=created, splits=counts, digest=digest, licence=said["licence"],
        intended_use=said["intended_use"], brief=mask_secrets(bench.project.brief), models=said["models"], review=said["review"],
        settings=said["settings"], protected=tuple(said["protected"]), counts=said["counts"], hygiene=clean, description=described,
        language=main_language(described), separation=separation, provenance=said["provenance"],
    )  # fmt: skip
    measured = {
        "splits": separation.model_dump(mode="json"),
        "distribution": in_brief(described),
        **({"pairs": hygiene.as_values(clean)} if clean else {}),
    }
    told = {
        **said,
        "parents": _continued(bench, name, digest),
        "counts": {**said["counts"], **measured},
        "settings": {**said["settings"], "balance": balance_facts(bench, kind, leaving)},
    }
    return snapshots.write_snapshot(
        bench.folder / "snapshots", name=name, version=version, kind=kind, splits=tables, facts=told, card=render_card(card),
        report_html=render_report(report_data(bench, names=published_names(bench)), protected_text=False),
        croissant=partial(render_croissant, card), created=created,
    )  # fmt: skip


def _manifest_facts(
    bench: Bench,
    kind: Kind,
    leaving: Sequence[Row],
    protected: Sequence[ProtectedItems],
    stopped: Mapping[int, str],
    sample: Sample | None,
) -> dict[str, Any]:
    project, review, names = bench.project, review_counts(bench, (kind,)), published_names(bench)
    provenance = sources_of(bench, leaving)
    kind_of = records.kinds_by_seq(bench.db)
    verdicts = Counter(v["verdict"] for seq, v in facts.verdicts_by_seq(bench.db).items() if kind_of[seq] == kind)
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
        "models": models_of(bench, kind, leaving),
        "intended_use": project.intended_use.strip(),
        "provenance": provenance,
        "licence": governing_licence(provenance),
        "lineage": stages_of(bench),
        "settings": {
            "score": None if project.score.is_off else {
                "threshold": project.score.threshold, "top_percent": project.score.top_percent,
                "top_by": project.score.top_by, "rubric": scoring.rubric_digest(project),
                "judges": {judge.name: scoring.rubric_digest(project, judge.spec) for judge in judged_by(bench) if judge.totals},
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
