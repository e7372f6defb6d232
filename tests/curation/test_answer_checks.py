"""Answers that contradict themselves, and one text over several rows."""

from __future__ import annotations

from typing import Any

from curation.answer_checks import GivenAnswer, Slip, find_bulk_edits, find_slips

IDS = {seq: f"row{seq}" for seq in range(10)}


def given(seq: int, second: int = 0, user: str = "ada", shown: str = "text", **values: Any) -> GivenAnswer:
    return GivenAnswer(f"{user}{seq}", seq, user, f"2026-11-26T10:00:{second:02}.123456", values, shown)


def test_a_rejection_needs_a_reason_or_a_comment_and_an_approval_has_none() -> None:
    slips = find_slips([
        given(1, verdict="reject"), given(2, verdict="reject", reasons=["wrong"]), given(3, verdict="reject", comment="no such code"),
        given(4, verdict="reject", reasons=[], comment=" "), given(5, verdict="approve", reasons=["wrong"]), given(6, verdict="approve"),
        given(7, user="ben", verdict="reject"),
    ])  # fmt: skip
    assert slips == [Slip("ada", "no_reason", (1, 4)), Slip("ada", "reasons_of_approval", (5,)), Slip("ben", "no_reason", (7,))]
    assert slips[0].describe(IDS) == "ada: 2 rejected without a reason or a comment (row1, row4). Ask for the reason; the answers count."


def test_one_text_over_several_rows_at_once_is_no_edit() -> None:
    new = {"verdict": "approve", "edited_completion": "new"}
    bulk = [given(1, 10, **new), given(2, 10, shown="other", **new), given(3, 12, **new)]
    others = [
        given(4, 40, **new),  # half a minute later: somebody wrote the same short answer again
        given(5, 10, user="ben", **new),
        given(6, 10, shown="new", **new),  # the row's own text
        given(7, 10, verdict="approve", edited_completion=""),
    ]
    assert sorted(answer.seq for answer in find_bulk_edits([*others, *bulk])) == [1, 2, 3]
    [slip] = find_slips([*others, *bulk])
    assert (slip.kind, slip.seqs) == ("one_text", (1, 2, 3))
    assert "one text written over 3 rows at once (row1, row2, row3)" in slip.describe(IDS)


def test_a_long_list_of_rows_is_shortened() -> None:
    assert "(row0, row1, row2, row3, row4 and 2 more)" in Slip("ada", "no_reason", tuple(range(7))).describe(IDS)
