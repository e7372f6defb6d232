"""Rows that people made by changing a text: how they come to be, and whether the person still stands by them.

A person may change a text again, or take the change back. The row that the first change made stays where it is, for rows never change;
what it stands for is read anew from the answers at every decision.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from argilla_setup import forms
from curation.decide import Opinion, Reason
from curation.errors import RowError
from curation.patterns import compile_pattern
from curation.pipeline.bench import Bench
from curation.pipeline.opinions import opinions_by_seq
from curation.records import InstructionRecord, parse_record, record_id
from curation.store import facts, records, reviews
from curation.store.records import Origin, Row
from curation.store.reviews import StoredAnswer


@dataclass(frozen=True)
class Standing:
    """Who stands by a row that an edit made."""

    by: tuple[str, ...] = ()
    taken_back: Reason | None = None
    """Why nobody does any more."""
    contested: bool = False
    """Its maker took it back, but others approved it or a snapshot holds it: a data lead says what goes on."""


def add_edits(bench: Bench, run: int) -> int:
    """A record for each text a person changed, and one more for each time they change it again; its origin names the answer and the
    record it came from. Returns how many were new."""
    rows = {row.seq: row for row in records.list_rows(bench.db, "instruction")}
    answers, identities = reviews.answers_by_seq(bench.db), records.ids_of(bench.db)
    made, known = list[tuple[InstructionRecord, Origin]](), dict[str, set[str]]()
    for seq, response, _ in records.sources_by_seq(bench.db, "edited"):
        known.setdefault(response, set()).add(identities[seq])
    for seq, opinions in opinions_by_seq(bench).items():
        for opinion in opinions:
            if opinion.says != "edit" or opinion.edited is None or not isinstance(rows[seq].record, InstructionRecord):
                continue
            response = next(a.response for a in answers[seq] if a.user == opinion.user)
            child, earlier = _edited(bench, rows[seq], opinion.edited), known.get(response, set())
            if child is not None and record_id(child) not in earlier:
                origin = Origin("edited", response, len(earlier), cell=rows[seq].cell, parent=seq, seed_group=rows[seq].seed_group)
                made.append((child, origin))
    return records.add_records(bench.db, made, run)[1]


def edited_texts(bench: Bench, row: Row) -> list[tuple[int, str]]:
    """Return (seq, completion) of every record that an edit of this row made; an edit into a record that was there already counts."""
    responses = {answer.response for answer in reviews.answers_by_seq(bench.db).get(row.seq, [])}
    made = {seq for seq, response, _ in records.sources_by_seq(bench.db, "edited") if response in responses}
    rows = (records.load_row(bench.db, seq)["record"] for seq in sorted(made))
    return [(seq, body["completion"]["content"]) for seq, body in zip(sorted(made), rows, strict=True) if body]


def standings(bench: Bench, rows: Mapping[int, Row], opinions: Mapping[int, Sequence[Opinion]]) -> dict[int, Standing]:
    """For each row that an edit made, who stands by it now."""
    edited = records.sources_by_seq(bench.db, "edited")
    answers = {a.response: a for given in reviews.answers_by_seq(bench.db).values() for a in given} if edited else {}
    made = [(seq, source) for seq, source, _ in edited if seq in rows and source in answers]
    child_of = {(response, _text(rows[seq])): seq for seq, response in made}
    by, newer = dict[int, list[str]](), dict[int, int | None]()
    for seq, response in made:
        said = _said(answers[response])
        if said == _text(rows[seq]):
            by.setdefault(seq, []).append(answers[response].user)
        else:
            newer[seq] = child_of.get((response, said))
    out = {seq: Standing(tuple(sorted(users))) for seq, users in by.items()}
    return out | {seq: _taken_back(bench, seq, twin, opinions.get(seq, ())) for seq, twin in newer.items() if seq not in by}


def _taken_back(bench: Bench, seq: int, newer: int | None, opinions: Sequence[Opinion]) -> Standing:
    if any(origin["how"] != "edited" and origin["role"] == "row" for origin in records.load_row(bench.db, seq)["origins"]):
        return Standing()  # it was written or imported as well, and needs no editor
    if any(opinion.says in ("approve", "edit") for opinion in opinions) or seq in facts.splits_by_seq(bench.db):
        return Standing(contested=True)
    if newer is None:
        return Standing(taken_back=Reason("review", "withdrawn", "the person who wrote this text took the change back"))
    return Standing(taken_back=Reason("review", "edited_again", "the person who wrote this text changed it again", newer))


def _said(answer: StoredAnswer) -> str | None:
    """The text that a response puts in the place of what was shown; None where it does not."""
    if answer.status != "submitted" or answer.values.get(forms.VERDICT) != forms.APPROVE:
        return None
    return str(answer.values.get(forms.EDITED_COMPLETION) or "").strip() or None


def _text(row: Row) -> str | None:
    return row.answers[0] if row.kind == "instruction" else None


def _edited(bench: Bench, row: Row, text: str) -> InstructionRecord | None:
    pattern = bench.project.records.label_pattern
    found = compile_pattern(pattern, multiline=False).search(text) if pattern else None
    value = json.loads(row.record.model_dump_json())
    value["completion"]["content"], value["label"] = text, found.group(1) if found else value["label"] if not pattern else None
    try:
        record = parse_record(value)
    except RowError:
        return None
    return record if isinstance(record, InstructionRecord) else None
