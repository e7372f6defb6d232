"""Preference pairs out of judged candidates: which two of the answers to one prompt become a pair. Core: generate/pairing.py."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Sequence

from curation.generate import Candidate, Pairing, pair_candidates
from curation.pipeline.bench import Bench
from curation.pipeline.judged import totals_by_seq
from curation.records import Message, Record
from curation.requests import Failure
from curation.store import facts, records
from curation.store.records import Origin, Row

Prompt = tuple[str, tuple[Message, ...]]
"""A cell and what was asked there."""


def pair_up(bench: Bench, run: int) -> int:
    """Make a pair of every prompt whose candidates are all judged (or, where people will say, all there); returns how many.

    A pair is made once; what gives none is counted, with the reason, and its cell may be refilled.
    """
    plan = bench.project.plan
    if not plan.candidates:
        return 0
    by_people = plan.preferred_by == "people"
    threshold = 0.0 if by_people or bench.project.score.top_percent is not None else bench.project.score.threshold
    rule = f"{plan.margin}:{threshold}:{plan.preferred_by}"  # another rule may pair what this one does not
    ready = _ready(bench, rule, by_people=by_people)
    totals = totals_by_seq(bench)
    candidates = [[Candidate(row.record, totals.get(row.seq)) for row in rows if _is_answer(row)] for rows in ready.values()]  # type: ignore[arg-type]
    pairings = pair_candidates(candidates, margin=plan.margin, keeps=threshold, by_people=by_people)
    made = [entry for prompt, pairing in zip(ready, pairings, strict=True) for entry in _entries(prompt, pairing)]
    for start in range(0, len(made), 3000):
        records.add_records(bench.db, made[start : start + 3000], run)
    facts.add_failures(
        bench.db,
        [
            Failure(stage="pair", slot=cell, reason="no_pair", detail=pairing.reason, key=_tried((cell, prompt), rule))
            for (cell, prompt), pairing in zip(ready, pairings, strict=True)
            if pairing.pair is None
        ],
        run,
    )
    return sum(pairing.pair is not None for pairing in pairings)


def _ready(bench: Bench, rule: str, *, by_people: bool) -> dict[Prompt, list[Row]]:
    """Candidates by prompt, of the prompts that have no pair yet and wait for nothing."""
    groups: dict[Prompt, list[Row]] = defaultdict(list)
    for row in records.list_rows(bench.db, "instruction", role="candidate"):
        if row.cell is not None and row.how == "generated" and row.cell.startswith("preference:"):
            groups[row.cell, row.record.prompt].append(row)
    paired = {(row.cell, row.record.prompt) for row in records.list_rows(bench.db, "preference")}
    tried = facts.failed_calls(bench.db, "pair")
    totals, unjudged = totals_by_seq(bench), {slot.split(":")[0] for slot in facts.failed_slots(bench.db, "score")}
    return {
        prompt: rows
        for prompt, rows in groups.items()
        if prompt not in paired
        and _tried(prompt, rule) not in tried
        and len(rows) > 1
        and (by_people or all(row.seq in totals or row.id in unjudged for row in rows))
    }


def _entries(prompt: Prompt, pairing: Pairing) -> Sequence[tuple[Record, Origin]]:
    if pairing.pair is None:
        return ()
    source, (cell, _) = _source(prompt), prompt
    rivals = [(record, Origin("paired", source, 0, part, cell)) for part, record in enumerate(pairing.candidates, 1)]
    raw = {"points_apart": round(pairing.gap, 2)} if pairing.better is not None else {"preferred_by": "people"}
    return ((pairing.pair, Origin("paired", source, 0, 0, cell, pairing.better, raw=raw)), *rivals)


def _source(prompt: Prompt) -> str:
    """The same for the same prompt of the same cell."""
    cell, messages = prompt
    return hashlib.sha256("\x1f".join([cell, *(f"{m.role}:{m.content}" for m in messages)]).encode()).hexdigest()


def _tried(prompt: Prompt, rule: str) -> str:
    return hashlib.sha256(f"{_source(prompt)}:{rule}".encode()).hexdigest()


def _is_answer(row: Row) -> bool:
    return row.kind == "instruction"
