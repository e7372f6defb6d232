"""Where the rows of a snapshot come from: who wrote them, who judged them, under which licences. Core: licences.py."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from curation.pipeline.bench import Bench
from curation.pipeline.judged import judged_by
from curation.pipeline.keeping import better_candidate
from curation.records import Kind
from curation.store import lineage, records
from curation.store.lineage import Writer
from curation.store.records import Row

STAND_IN = "offline-stand-in"


def models_of(bench: Bench, kind: Kind, rows: Sequence[Row]) -> dict[str, Any]:
    """Return which models wrote and judged these rows: None where none did."""
    writers = lineage.writers_by_seq(bench.db)
    root = _roots(bench)
    wrote = Counter(writer for row in rows for writer in writers.get(root.get(row.seq, row.seq), ()))
    judged = _judges_of(bench, kind, rows)
    return {
        "teacher": _names(wrote),
        "judge": _names(judged),
        "simulated": any(writer.simulated for writer in (*wrote, *judged)),
        "rows_written": {_name(writer): n for writer, n in wrote.most_common()},
        "rows_judged": {_name(writer): n for writer, n in judged.most_common()},
    }


def _roots(bench: Bench) -> dict[int, int]:
    """Seq of an edited row to that of the row which its text was edited from, over all edits."""
    parents = {made.seq: made.parent for made in lineage.list_made(bench.db) if made.how == "edited" and made.parent is not None}

    def root(seq: int) -> int:
        seen = set[int]()
        while seq in parents and seq not in seen:
            seen.add(seq)
            seq = parents[seq]
        return seq

    return {seq: root(seq) for seq in parents}


def _judges_of(bench: Bench, kind: Kind, rows: Sequence[Row]) -> Counter[Writer]:
    if bench.project.score.is_off:
        return Counter()
    candidates = {row.id: row.seq for row in records.list_rows(bench.db, "instruction", role="candidate")} if kind == "preference" else {}
    scored = {row.seq: row.seq if kind == "instruction" else better_candidate(row, candidates) for row in rows}
    found: Counter[Writer] = Counter()
    for judge in judged_by(bench):
        writer = Writer(judge.spec.provider, judge.spec.model, judge.spec.provider == STAND_IN)
        found[writer] = sum(scored[row.seq] in judge.totals or row.seq in judge.choices for row in rows)
    return +found


def _names(found: Counter[Writer]) -> str | None:
    return ", ".join(_name(writer) for writer, _ in found.most_common()) or None


def _name(writer: Writer) -> str:
    if writer.simulated:
        return f"{writer.model} (offline stand-in: made-up text)"
    return f"{writer.model} ({writer.provider})" if writer.provider else writer.model
