"""Answers from a closed set of labels: macro-F1, confusion, and their intervals."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import confusion_matrix, f1_score

from training.classification import OTHER, classify, compare_macro_f1, confused_pairs

LABELS = ("bones", "breath", "skin")


def made(n: int, *, right: float, seed: int = 1) -> tuple[list[str], list[str]]:
    """References, and answers of which a share is right; some of the others are no label."""
    rng = np.random.default_rng(seed)
    references = [LABELS[number % 3] for number in range(n)]
    pool = [*LABELS, "I do not know"]
    return references, [label if rng.random() < right else pool[rng.integers(4)] for label in references]


def test_scores_and_matrix_are_those_of_scikit_learn() -> None:
    references, answers = made(90, right=0.6)
    found = classify(references, answers, of="exact_answer")
    assert found is not None
    classification, macro = found
    assert macro.value == pytest.approx(f1_score(references, answers, labels=LABELS, average="macro"), abs=1e-4)
    each = f1_score(references, answers, labels=LABELS, average=None)
    assert [score.f1 for score in classification.labels] == pytest.approx(each, abs=1e-4)
    shown = [text if text in LABELS else OTHER for text in answers]
    matrix = confusion_matrix(references, shown, labels=[*LABELS, OTHER])
    cells = {(cell.reference, cell.answer): cell.n for cell in classification.confusion}
    names = [*LABELS, OTHER]
    assert cells == {(a, b): matrix[i, j] for i, a in enumerate(names) for j, b in enumerate(names) if matrix[i, j]}
    assert classification.outside == answers.count("I do not know")
    pairs = confused_pairs(classification)
    assert [pair.n for pair in pairs] == sorted((pair.n for pair in pairs), reverse=True)
    assert macro.low < macro.value < macro.high


def test_a_label_that_is_never_answered_counts_as_zero() -> None:
    found = classify(["a", "b"] * 4, ["a"] * 8, of="exact_answer")
    assert found is not None
    assert found[1].value == pytest.approx((2 / 3 + 0) / 2, abs=1e-4)
    assert [score.precision for score in found[0].labels] == [0.5, 0.0]


@pytest.mark.parametrize("references", [["a"] * 8, ["a", "b", "c"], ["a", "", "a", ""], ["a" * 200, "b"] * 3])
def test_texts_are_no_classification(references: list[str]) -> None:
    assert classify(references, references, of="exact_answer") is None


def test_the_interval_has_about_its_coverage() -> None:
    inside = 0
    for seed in range(60):
        found = classify(*made(150, right=0.5, seed=seed), of="exact_answer")
        assert found is not None
        # The value of the population: right with .5 + .5 / 4, else one of three other answers, of which two are labels.
        inside += found[1].low <= 0.667 <= found[1].high
    assert 50 <= inside <= 60


def test_the_paired_difference_is_found_and_chance_is_not() -> None:
    references, good = made(150, right=0.9)
    _, poor = made(150, right=0.4, seed=2)
    one, two = classify(references, good, of="exact_answer"), classify(references, poor, of="exact_answer")
    assert one is not None and two is not None
    better = compare_macro_f1(one[0], two[0])
    assert better is not None and better.verdict == "better" and better.p < 0.01 and better.low > 0
    assert better.difference == pytest.approx(one[1].value - two[1].value, abs=2e-4)
    same = compare_macro_f1(one[0], one[0])
    assert same is not None and (same.difference, same.p, same.verdict) == (0.0, 1.0, "no change")
    fewer = classify(references[:90], good[:90], of="exact_answer")
    assert fewer is not None and compare_macro_f1(one[0], fewer[0]) is None


def test_chance_is_called_a_change_about_as_often_as_the_level() -> None:
    found = 0
    for seed in range(60):
        pairs = [classify(*made(60, right=0.5, seed=1000 * part + seed), of="exact_answer") for part in (1, 2)]
        assert pairs[0] is not None and pairs[1] is not None
        difference = compare_macro_f1(pairs[0][0], pairs[1][0], resamples=400)
        assert difference is not None
        found += difference.verdict != "no change"
    assert found <= 7
