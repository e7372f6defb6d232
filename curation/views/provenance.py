"""Where the rows of a snapshot come from: who wrote them, who judged them, under which licences. Core: licences.py."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from curation import licences
from curation.records import Kind
from curation.snapshot.manifest import Provenance, SourceFacts
from curation.store import lineage, records, runs
from curation.store.lineage import Made, Writer
from curation.store.records import UNKNOWN, Row, Source, WrittenBy
from curation.views.scores import better_candidate, judged_by
from curation.workspace import Workspace

SHAPING = ("plan", "import", "generate", "refill", "score", "dedup", "screen", "balance", "push", "pull", "decide")
"""The stages that decide which rows there are."""
_UNSTATED: tuple[str, str, WrittenBy, str, str] = (UNKNOWN, UNKNOWN, UNKNOWN, "", "")
"""Of a file that was imported before sources were recorded."""


def models_of(workspace: Workspace, kind: Kind, rows: Sequence[Row]) -> dict[str, Any]:
    """Return which models wrote and judged these rows: None where none did."""
    writers = lineage.writers_by_seq(workspace.db)
    root = _roots(workspace)
    wrote = Counter(writer for row in rows for writer in writers.get(root.get(row.seq, row.seq), ()))
    judged = _judges_of(workspace, kind, rows)
    return {
        "teacher": _names(wrote),
        "judge": _names(judged),
        "simulated": any(writer.simulated for writer in (*wrote, *judged)),
        "rows_written": {_name(writer): n for writer, n in wrote.most_common()},
        "rows_judged": {_name(writer): n for writer, n in judged.most_common()},
    }


def sources_of(workspace: Workspace, rows: Sequence[Row]) -> dict[str, Any]:
    """Return where these rows come from and what the licences come to, as the manifest's `provenance`."""
    stated = {source.source: source for source in records.list_sources(workspace.db)}
    root = _roots(workspace)
    origins: dict[int, list[Made]] = {root.get(row.seq, row.seq): [] for row in rows}
    for made in lineage.list_made(workspace.db):
        if made.seq in origins:
            origins[made.seq].append(made)
    found: dict[tuple[str, str, str], dict[str, str]] = {}
    counts, authors = Counter[tuple[str, str, str]](), Counter[str]()
    for row in rows:
        ways = [way for way in origins[root.get(row.seq, row.seq)] if way.how != "edited"]
        named = {way.source: stated.get(way.source) or Source(way.source, *_UNSTATED) for way in ways if way.how == "imported"}
        kinds = {(source.name, source.license, source.written_by) for source in named.values()}
        counts.update(kinds)
        for digest, source in named.items():
            found.setdefault((source.name, source.license, source.written_by), {})[digest] = source.file
        authors[named[ways[0].source].written_by if ways[0].how == "imported" else "model"] += 1
    return Provenance(
        sources=tuple(
            SourceFacts(
                name=kind[0], license=kind[1], written_by=kind[2], rows=n,  # type: ignore[arg-type]
                files=tuple(found[kind].values()), sha256=tuple(found[kind]),
            )
            for kind, n in counts.most_common()
        ),
        written_by={who: authors[who] for who in ("model", "people", "unknown")},
        edited=sum(row.seq in root for row in rows),
        licence_stated=workspace.project.licence,
        conditions=licences.combine([workspace.project.licence, *(license for _, license, _ in counts)]).conditions,
        warnings=_warnings(workspace, counts),
        licence_table=licences.TABLE_DATE if counts else "",
    ).model_dump(mode="json")  # fmt: skip


def governing_licence(provenance: Mapping[str, Any]) -> str:
    """Return the licence of the whole: the project's own where nothing was imported."""
    stated, sources = provenance["licence_stated"], [source["license"] for source in provenance["sources"]]
    return licences.combine([stated, *sources]).licence if sources else stated


def stages_of(workspace: Workspace) -> dict[str, Any]:
    """Return the last finished run of each stage that shapes rows, and the files of all imports, as the manifest's `lineage`."""
    finished = [run for run in runs.list_runs(workspace.db) if run["state"] == "done" and run["stage"] in SHAPING]
    latest = {run["stage"]: run for run in finished}
    number = Counter(run["stage"] for run in finished)
    return {
        "stages": [
            {"stage": stage, "digest": run["digest"], "runs": number[stage], "ended": run["ended"], "in": run["rows_in"],
             "out": run["rows_out"]}
            for stage in SHAPING if (run := latest.get(stage))
        ]
    }  # fmt: skip


def _warnings(workspace: Workspace, counts: Counter[tuple[str, str, str]]) -> tuple[str, ...]:
    """Return what a person should know of the licences, in sentences."""
    stated, asked = workspace.project.licence, [license for _, license, _ in counts]
    said = [f"Licenses contradict each other: {conflict}." for conflict in licences.combine([stated, *asked]).conflicts]
    for (name, license, _), rows in counts.items():
        if license == UNKNOWN:
            said.append(f"The license of {rows:,} rows from source {name} is unknown; do not assume that they can be shared.")
        elif more := licences.laxer(stated, [license]):
            said.append(
                f"project.yaml: license {stated} is less strict than {license} of source {name}, which also requires: {', '.join(more)}."
            )
    unlisted = [name for name in licences.combine(asked).unlisted if name != stated]
    return (*said, *(f"License {name} is not in the license table, so its terms were not compared." for name in unlisted))


def _roots(workspace: Workspace) -> dict[int, int]:
    """Seq of an edited row to that of the row which its text was edited from, over all edits."""
    parents = {made.seq: made.parent for made in lineage.list_made(workspace.db) if made.how == "edited" and made.parent is not None}

    def root(seq: int) -> int:
        seen = set[int]()
        while seq in parents and seq not in seen:
            seen.add(seq)
            seq = parents[seq]
        return seq

    return {seq: root(seq) for seq in parents}


def _judges_of(workspace: Workspace, kind: Kind, rows: Sequence[Row]) -> Counter[Writer]:
    if workspace.project.score.is_off:
        return Counter()
    candidates = (
        {row.id: row.seq for row in records.list_rows(workspace.db, "instruction", role="candidate")} if kind == "preference" else {}
    )
    scored = {row.seq: row.seq if kind == "instruction" else better_candidate(row, candidates) for row in rows}
    found: Counter[Writer] = Counter()
    for judge in judged_by(workspace):
        writer = Writer(judge.spec.provider, judge.spec.model, judge.spec.is_simulated)
        found[writer] = sum(scored[row.seq] in judge.totals or row.seq in judge.choices for row in rows)
    return +found


def _names(found: Counter[Writer]) -> str | None:
    return ", ".join(_name(writer) for writer, _ in found.most_common()) or None


def _name(writer: Writer) -> str:
    if writer.simulated:
        return f"{writer.model} (mock provider: made-up text)"
    return f"{writer.model} ({writer.provider})" if writer.provider else writer.model
