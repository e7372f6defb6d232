"""Error rates of reviewers: from control rows, from all answers, people who err together, and people who are too fast."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binomtest

from curation.quality.annotators import Answer, ControlResult, exact_share, grade_controls, paces
from curation.quality.control import Control
from tests.support.review_crowd import fit_each


def test_control_rows_give_exact_shares() -> None:
    controls = [Control("bad-1", "reject"), Control("bad-2", "reject"), Control("good-1", "approve")]
    answers = [
        Answer("bad-1", "ada", True), Answer("bad-2", "ada", False), Answer("good-1", "ada", False), Answer("other", "ada", True),
        Answer("good-1", "bob", True),
    ]  # fmt: skip
    ada, bob = grade_controls(answers, controls)
    assert (ada, bob) == (ControlResult("ada", 1, 2, 1, 1), ControlResult("bob", 0, 0, 0, 1))
    assert bob.sensitivity is None and bob.specificity is not None and bob.specificity.value == 0
    exact = binomtest(1, 2).proportion_ci(0.95, "exact")
    assert ada.sensitivity is not None
    assert (ada.sensitivity.low, ada.sensitivity.high) == (pytest.approx(exact.low), pytest.approx(exact.high))
    assert grade_controls(answers, []) == [] and exact_share(0, 0) is None


def crowd(
    seed: int, *, rows: int = 600, users: int = 5, together: tuple[int, ...] = (), controls: int = 0
) -> tuple[list[Answer], list[Control]]:
    """Everybody answers every row: sensitivity 0.8, specificity 0.9; those TOGETHER share the errors of most rows."""
    rng = np.random.default_rng(seed)
    bad, chance, common = rng.random(rows) < 0.3, rng.random((rows, users)), rng.random(rows)
    for who in together:
        chance[:, who] = np.where(rng.random(rows) < 0.8, common, chance[:, who])
    turned = bad[:, None] ^ (chance < np.where(bad[:, None], 0.2, 0.1))
    answers = [Answer(f"{row:04}", f"user-{who}", bool(turned[row, who])) for row in range(rows) for who in range(users)]
    return answers, [Control(f"{row:04}", "reject" if bad[row] else "approve") for row in range(controls)]


def test_all_answers_give_each_persons_rates_without_a_known_verdict() -> None:
    found = fit_each(crowd(1)[0])
    assert found is not None and found.groups == ()
    for person in found.people:
        assert person.answers == 600
        assert person.sensitivity.low <= 0.8 <= person.sensitivity.high and person.specificity.low <= 0.9 <= person.specificity.high
        assert person.guessing == pytest.approx(2 - person.sensitivity.value - person.specificity.value)
    assert found.bad_rate.low <= 0.3 <= found.bad_rate.high
    assert sum(rows for p, rows in found.probability_bad if p > 0.5) == pytest.approx(180, abs=30)


def test_a_person_who_answers_at_random_is_found_to_guess() -> None:
    answers, _ = crowd(2)
    rng = np.random.default_rng(0)
    found = fit_each([*answers, *(Answer(f"{row:04}", "monkey", bool(rng.random() < 0.5)) for row in range(600))])
    assert found is not None
    assert max(found.people, key=lambda person: person.guessing).user == "monkey"
    assert min(person.guessing for person in found.people if person.user == "monkey") > 0.8


def test_people_who_err_together_are_found_and_count_as_one() -> None:
    answers, controls = crowd(3, users=8, together=(0, 1, 2), controls=100)
    found = fit_each(answers, controls)
    assert found is not None and found.groups == (("user-0", "user-1", "user-2"),)
    known = {result.user: result.sensitivity for result in grade_controls(answers, crowd(3, users=8, together=(0, 1, 2), controls=600)[1])}
    for person in found.people:
        exact = known[person.user]
        assert exact is not None and person.sensitivity.value == pytest.approx(exact.value, abs=0.04), person
    independent = [fit_each(crowd(seed, users=8)[0]) for seed in range(10, 16)]
    assert [model.groups for model in independent if model] == [()] * 6


def test_known_verdicts_are_kept_and_narrow_the_intervals() -> None:
    answers, controls = crowd(4, rows=200, users=3, controls=200)
    free, held = fit_each(answers), fit_each(answers, controls)
    assert free is not None and held is not None
    assert sum(rows for p, rows in held.probability_bad if p == 1.0) == sum(control.verdict == "reject" for control in controls)
    widths = [sum(p.sensitivity.high - p.sensitivity.low for p in model.people) for model in (free, held)]
    assert widths[1] < widths[0]
    # With every truth known the estimate is the exact share, apart from the prior of 1.25 answers.
    graded = {result.user: result for result in grade_controls(answers, controls)}
    for person in held.people:
        exact = graded[person.user].sensitivity
        assert exact is not None and person.sensitivity.value == pytest.approx(exact.value, abs=0.02)


def test_there_is_no_model_without_two_answers_on_a_row() -> None:
    assert fit_each([]) is None
    assert fit_each([Answer("a", "ada", True), Answer("b", "bob", False)]) is None
    everybody_approves = [Answer(f"{row}", user, False) for row in range(30) for user in ("ada", "bob")]
    found = fit_each(everybody_approves)
    assert found is not None and found.bad_rate.high < 0.2
    assert all(person.sensitivity.high - person.sensitivity.low > 0.9 for person in found.people)  # nothing bad was seen


def test_submits_far_faster_than_the_others_are_counted() -> None:
    rng = np.random.default_rng(5)
    steady = {user: list(np.cumsum(rng.lognormal(3.2, 0.4, 100))) for user in ("ada", "bob", "cid")}
    rushed = list(np.cumsum([*rng.lognormal(3.2, 0.4, 50), *[0.8] * 25]))
    found = {pace.user: pace for pace in paces({**steady, "dee": [float(at) for at in rushed]})}
    assert found["ada"].short.value == 0 and found["ada"].short.high < 0.05
    assert found["dee"].short.value == pytest.approx(25 / 74) and found["dee"].short.low > 0.2
    assert found["ada"].median_s == pytest.approx(24.5, rel=0.2) and 2 < found["ada"].limit_s < 10


def test_breaks_and_single_submits_are_no_gaps() -> None:
    assert paces({"ada": [5.0], "bob": []}) == []
    (pace,) = paces({"ada": [0, 20, 40, 60, 100_000, 100_020]})
    assert (pace.gaps, pace.median_s, pace.short.value) == (4, 20, 0)
