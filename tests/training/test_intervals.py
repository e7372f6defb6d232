"""Intervals of a metric and paired comparisons: what counts as a change."""

from __future__ import annotations

import numpy as np
import pytest

from training.intervals import compare, measure, permutation_p


def test_interval_covers_the_mean_and_narrows_with_n() -> None:
    small, large = measure([1, 0] * 20), measure([1, 0] * 200)
    assert small.value == large.value == 0.5
    assert small.low < 0.4 < 0.6 < small.high
    # The standard error of a share of one half over 400 is .025, so the interval is about +-.049.
    assert large.low == pytest.approx(0.451, abs=0.006)
    assert large.high == pytest.approx(0.549, abs=0.006)


def test_interval_of_all_wrong_is_not_a_point() -> None:
    nothing = measure([0.0] * 120)
    assert (nothing.value, nothing.low, nothing.method) == (0.0, 0.0, "wilson")
    assert nothing.high == pytest.approx(0.031, abs=0.001)
    assert measure([1.0] * 120).low == pytest.approx(0.969, abs=0.001)


def test_difference_that_covers_zero_is_no_change() -> None:
    rng = np.random.default_rng(1)
    before = rng.integers(0, 2, 120).astype(float).tolist()
    flipped = [1 - v if i in (3, 50) else v for i, v in enumerate(before)]
    assert compare(flipped, before).verdict == "no change"
    assert compare(before, before).verdict == "no change"
    better = [1.0 if i % 3 == 0 else v for i, v in enumerate(before)]
    assert compare(better, before).verdict == "better"
    assert compare(before, better).verdict == "worse"


def test_pairing_finds_what_two_separate_intervals_would_miss() -> None:
    before = [1.0] * 60 + [0.0] * 60
    after = [1.0] * 68 + [0.0] * 52
    assert measure(before).high > measure(after).low
    assert compare(after, before).verdict == "better"


def test_a_few_items_that_flip_by_chance_are_no_change() -> None:
    four = [1.0] * 4 + [0.0] * 96
    assert compare(four, [0.0] * 100).low > 0, "the bootstrap alone would call this better"
    assert compare(four, [0.0] * 100).verdict == "no change" and permutation_p(four) == 0.125
    assert compare([1.0], [0.0]).verdict == "no change"
    assert compare([1.0] * 6 + [0.0] * 94, [0.0] * 100).verdict == "better"
    # 9 better, 1 worse: McNemar's exact test gives 22 / 1024.
    assert permutation_p([1.0] * 9 + [-1.0] + [0.0] * 30) == pytest.approx(22 / 1024)


def test_differences_of_many_sizes_are_tested_by_random_signs() -> None:
    rng = np.random.default_rng(4)
    noise = rng.normal(0, 1, 60)
    assert permutation_p(noise.tolist()) > 0.05
    assert permutation_p((noise + 0.6).tolist()) < 0.01
    # Of the 32 ways to sign these, two give a sum of 13 or more and two one of -13 or less.
    assert permutation_p([5.0, 4.0, 3.0, 2.0, -1.0], resamples=40_000) == pytest.approx(4 / 32, abs=0.01)
