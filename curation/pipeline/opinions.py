"""From stored answers to opinions: what each person said of each row, A and B turned back to canonical order."""

from __future__ import annotations

from collections.abc import Mapping
from operator import attrgetter

from argilla_setup import forms
from curation.decide import Opinion, shown_first
from curation.pipeline.bench import Bench
from curation.records import KINDS
from curation.store import erasing, records, reviews
from curation.store.records import Row
from curation.store.reviews import StoredAnswer


def opinions_by_seq(bench: Bench, rows: Mapping[int, Row] | None = None) -> dict[int, list[Opinion]]:
    """The submitted answers on each row; drafts and discards are no opinions.

    Args:
        rows: every row by seq, where they are at hand.
    """
    if rows is None:
        rows = {row.seq: row for kind in KINDS for row in records.list_rows(bench.db, kind)} if reviews.has_answers(bench.db) else {}
    out: dict[int, list[Opinion]] = {}
    for answer in reviews.latest_answers(bench.db):
        if answer.seq in rows:
            given = out.setdefault(answer.seq, [])
            opinion = opinion_of(answer, rows[answer.seq]) if answer.status == "submitted" else None
            if opinion is not None:
                given.append(opinion)
    return {seq: sorted(given, key=attrgetter("user")) for seq, given in out.items()}


def opinion_of(answer: StoredAnswer, row: Row) -> Opinion | None:
    """One person's opinion; None where the question that decides was left open."""
    if row.kind == "preference":
        return _choice_of(answer, row.id)
    verdict = answer.values.get(forms.VERDICT)
    edited = str(answer.values.get(forms.EDITED_COMPLETION) or "").strip()
    if verdict == forms.REJECT:
        return Opinion(answer.user, "reject", simulated=answer.simulated)
    if verdict != forms.APPROVE:
        return None
    if edited == erasing.ERASED:  # that person changed the text, and the changed text is gone
        return Opinion(answer.user, "edit", None, simulated=answer.simulated)
    if edited and edited != row.answers[0].strip():
        return Opinion(answer.user, "edit", edited, simulated=answer.simulated)
    return Opinion(answer.user, "approve", simulated=answer.simulated)


def _choice_of(answer: StoredAnswer, record_id: str) -> Opinion | None:
    choice, first = answer.values.get(forms.BETTER), shown_first(record_id)
    if choice == forms.BOTH_BAD:
        return Opinion(answer.user, "neither", simulated=answer.simulated)
    if choice == forms.TIE:
        return Opinion(answer.user, "tie", simulated=answer.simulated)
    if choice not in (forms.A, forms.B):
        return None
    index = first if choice == forms.A else 1 - first
    return Opinion(answer.user, "first" if index == 0 else "second", simulated=answer.simulated)
