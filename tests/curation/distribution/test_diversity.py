"""The measures of diversity against their definitions, and on sets whose diversity is known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from curation.distribution.diversity import Array, cluster_sizes, effective_number, measure_diversity, nearest_similarity, vendi_score


def unit(vectors: Array) -> Array:
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def random_units(n: int, d: int, seed: int = 0) -> Array:
    return unit(np.random.default_rng(seed).normal(size=(n, d)))


@pytest.mark.parametrize(("n", "d"), [(5, 16), (16, 16), (700, 16), (60, 384)])
def test_the_vendi_score_is_that_of_the_whole_kernel(n: int, d: int) -> None:
    vectors = random_units(n, d)
    values = np.linalg.eigvalsh(vectors.astype(np.float64) @ vectors.T.astype(np.float64) / n)
    values = values[values > 1e-12]
    assert vendi_score(vectors) == pytest.approx(np.exp(-(values * np.log(values)).sum()), rel=1e-6)


def test_the_vendi_score_counts_what_has_nothing_in_common() -> None:
    assert vendi_score(np.eye(12, dtype=np.float32)) == pytest.approx(12)
    assert vendi_score(np.repeat(np.eye(3, dtype=np.float32), 100, axis=0)) == pytest.approx(3)
    assert vendi_score(np.ones((50, 1), dtype=np.float32)) == pytest.approx(1)
    assert vendi_score(np.empty((0, 4), dtype=np.float32)) == 0


def test_the_nearest_neighbour_is_never_the_row_itself_at_any_place_of_a_block() -> None:
    vectors = random_units(1300, 8)
    alike = vectors @ vectors.T
    np.fill_diagonal(alike, -1)
    assert nearest_similarity(vectors) == pytest.approx(alike.max(axis=1).mean(), rel=1e-5)
    assert nearest_similarity(np.repeat(vectors[:1], 4, axis=0)) == pytest.approx(1, rel=1e-5)
    assert nearest_similarity(vectors[:1]) == 0


def test_clusters_are_the_planted_ones_in_whatever_order_they_come() -> None:
    rng = np.random.default_rng(1)
    centres, counts = np.eye(40, 64), [900, 300, *[10] * 38]
    rows = np.concatenate([unit(centre + rng.normal(scale=0.03, size=(n, 64))) for centre, n in zip(centres, counts, strict=True)])
    sizes = cluster_sizes(rows[rng.permutation(len(rows))], similar=0.7)
    assert sorted(sizes) == sorted(counts)
    assert effective_number(sizes) == pytest.approx(np.exp(-sum(n / 1580 * np.log(n / 1580) for n in counts)))


def test_equal_clusters_count_in_full_and_one_big_one_hardly() -> None:
    assert effective_number([7] * 9) == pytest.approx(9)
    assert effective_number({"a": 990, "b": 5, "c": 5, "d": 0}) < 1.1
    assert effective_number([]) == 0


def test_a_set_that_repeats_itself_measures_lower_on_every_scale() -> None:
    various, few = random_units(300, 32), random_units(12, 32, seed=2)
    repeated = few[np.random.default_rng(3).integers(0, 12, 300)]
    a = measure_diversity([f"text {n}" for n in range(300)], various)
    b = measure_diversity([f"text {n % 12}" for n in range(300)], repeated)
    assert a.rows == b.rows == 300 and a.distinct == 1 and b.distinct == 0
    assert a.vendi > 2 * b.vendi and a.effective_clusters > b.effective_clusters and a.nearest < b.nearest
    assert measure_diversity([], np.empty((0, 0))).vendi == 0


@pytest.mark.soak
def test_a_planned_set_is_half_as_various_again_as_the_prompt_repeated_and_refill_fills_it(tmp_path: Path) -> None:
    """Mechanical: on the mock provider, whose law of collapse knows nothing of our prompts."""
    from benchmarks.diversity import GOAL_COVERAGE, GOAL_RATIO, SETUPS, measure

    found = measure("with an avoid-list", SETUPS["with an avoid-list"], tmp_path, rows=240)
    assert found.ratio >= GOAL_RATIO and found.coverage >= GOAL_COVERAGE > found.coverage_before, found
