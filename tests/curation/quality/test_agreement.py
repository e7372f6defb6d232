"""Krippendorff's alpha: published values, intervals, slices, and where it is undefined."""

from __future__ import annotations

import krippendorff
import numpy as np
import pytest

from curation.quality.agreement import Rating, alphas, measure, measure_slices

# Krippendorff, "Computing Krippendorff's Alpha-Reliability" (2011), example C: four observers, twelve units, values 1 to 5.
PUBLISHED = [
    "1 2 3 3 2 1 4 1 2 . . .",
    "1 2 3 3 2 2 4 1 2 5 . 3",
    ". 3 3 3 2 3 4 2 2 5 1 .",
    "1 2 3 3 2 4 4 1 2 5 1 .",
]


def published() -> list[Rating]:
    lines = [line.split() for line in PUBLISHED]
    return [
        Rating(f"unit {at:02}", f"observer {who}", value) for who, line in enumerate(lines) for at, value in enumerate(line) if value != "."
    ]


def test_alpha_is_the_published_one() -> None:
    nominal = measure("q", published())
    ordinal = measure("q", published(), level="ordinal", order=["1", "2", "3", "4", "5"])
    assert nominal.alpha is not None and nominal.alpha.value == pytest.approx(0.743, abs=5e-4)
    assert ordinal.alpha is not None and ordinal.alpha.value == pytest.approx(0.815, abs=5e-4)
    assert (nominal.rows, nominal.answers) == (11, 40)  # one unit has one value only
    assert nominal.alpha.low < 0.743 < nominal.alpha.high <= 1


@pytest.mark.parametrize("level", ["nominal", "ordinal"])
def test_the_resampled_alpha_is_that_of_the_package(level: str) -> None:
    rng = np.random.default_rng(0)
    counts = rng.multinomial(3, [0.5, 0.2, 0.2, 0.1], 60)
    pairs = (counts[:, :, None] * counts[:, None, :] - counts[:, :, None] * np.eye(4)) / 2
    ours = alphas(pairs.sum(axis=0)[None], level)[0]  # type: ignore[arg-type]
    assert ours == pytest.approx(krippendorff.alpha(value_counts=counts, level_of_measurement=level, value_domain=[0, 1, 2, 3]))


def two(*pairs: str) -> list[Rating]:
    """Two people's answers: "aa" agrees, "ab" does not."""
    return [Rating(f"{at:03}", user, value) for at, pair in enumerate(pairs) for user, value in zip(("ada", "bob"), pair, strict=False)]


@pytest.mark.parametrize(
    ("ratings", "why"),
    [
        ([], "0 rows have two answers, and it takes 2"),
        (two("a", "b", "ab"), "1 rows have two answers, and it takes 2"),
        (two("aa", "aa", "b"), "all 4 answers are 'a'"),
    ],
)
def test_undefined_alpha_is_said_with_its_reason(ratings: list[Rating], why: str) -> None:
    found = measure("May this be used?", ratings)
    assert (found.alpha, found.why_undefined) == (None, why)
    assert found.sentence == f"May this be used?: alpha is undefined: {why}"
    assert found.is_below(0)


def test_an_interval_that_would_rest_on_one_row_is_not_given() -> None:
    found = measure("q", two("bb", *["aa"] * 3))
    assert found.alpha is None and found.why_undefined == "too few rows differ for an interval"


def test_perfect_agreement_has_an_interval_that_shrinks_with_the_rows() -> None:
    few, many = (measure("q", two(*["aa", "bb"] * n)).alpha for n in (10, 200))
    assert few is not None and many is not None
    assert few.value == many.value == 1 and few.low < many.low < 1 and few.high == 1


def test_the_interval_depends_on_the_seed_only() -> None:
    ratings = two(*["aa"] * 30, *["bb"] * 20, *["ab"] * 10)
    assert measure("q", ratings, seed=3) == measure("q", list(reversed(ratings)), seed=3)
    assert measure("q", ratings).sentence.startswith("q: alpha 0.66 (95 % interval 0.")
    assert not measure("q", ratings).is_below(0.6) and measure("q", ratings).is_below(0.7)


def test_slices_are_measured_each_by_itself_and_all_together() -> None:
    ratings = two(*["aa", "bb"] * 20, *["ab", "ba"] * 10, "aa")
    slices = {f"{at:03}": "easy" if at < 40 else "hard" for at in range(60)}
    everything, easy, hard = measure_slices("q", ratings, slices)
    assert [(found.slice, found.rows) for found in (everything, easy, hard)] == [("", 61), ("easy", 40), ("hard", 20)]
    assert easy.alpha is not None and hard.alpha is not None and easy.alpha.value == 1 and hard.alpha.value < 0
    assert hard.sentence.startswith("q (hard): alpha -")


def test_an_ordinal_value_outside_the_order_is_refused() -> None:
    with pytest.raises(ValueError, match="order lacks the value 'c'"):
        measure("q", two("ac", "aa"), level="ordinal", order=["a", "b"])
