"""Answers of two models compared by the judge in both orders: nothing is bought twice, and the budget holds."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from curation.errors import BudgetReached
from curation.records import Message
from curation.stages.judge_answers import AnswerPair, OrderedChoice, judge_answers
from tests.support.projects import Bed, blank, standin


@pytest.fixture(scope="module")
def bed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bed]:
    home = tmp_path_factory.mktemp("judge")
    with standin(blank(home / "garden"), home / "log") as running:
        yield running


def pair(number: int) -> AnswerPair:
    prompt = (Message(role="user", content=f"How often should I water tomato plant number {number} in summer?"),)
    good = f"Water tomato plant number {number} every morning in summer, at the root."
    return AnswerPair(prompt, good, "Blue. It never differs, so skip the label.", "Every morning.")


def test_both_orders_are_judged_once_and_read_in_terms_of_the_first_answer(bed: Bed) -> None:
    pairs = [pair(number) for number in range(6)]
    found = judge_answers(bed.folder, pairs)
    assert found.simulated and found.stopped is None and len(found.choices) == 6
    choices = [choice for both in found.choices for choice in both]
    assert all(isinstance(choice, OrderedChoice) for choice in choices)
    assert sum(choice.first_wins is True for choice in choices if isinstance(choice, OrderedChoice)) >= 10
    sent = bed.requests()
    assert sent == 12
    again = judge_answers(bed.folder, pairs)
    assert (again.choices, bed.requests()) == (found.choices, sent)
    turned = judge_answers(bed.folder, [AnswerPair(p.prompt, p.second, p.first, p.reference) for p in pairs])
    assert bed.requests() == sent, "the same two answers are the same question"
    for ours, theirs in zip(found.choices, turned.choices, strict=True):
        for a, b in zip(ours, theirs, strict=True):
            assert isinstance(a, OrderedChoice) and isinstance(b, OrderedChoice) and a.first_wins is not b.first_wins


def test_the_budget_stops_and_a_higher_one_continues(bed: Bed) -> None:
    pairs, sent = [pair(number) for number in range(100, 104)], bed.requests()
    bed.set(r"^(budget:.*usd: )[0-9.]+", r"\g<1>0.000001")
    with pytest.raises(BudgetReached, match=r"budget\.usd: .*finished answers are kept"):
        judge_answers(bed.folder, pairs)
    assert bed.requests() == sent
    bed.set(r"^(budget:.*usd: )[0-9.]+", r"\g<1>5")
    found = judge_answers(bed.folder, pairs)
    assert bed.requests() == sent + 8
    assert all(isinstance(choice, OrderedChoice) for both in found.choices for choice in both)
