"""Points of the map, and chains among near-duplicates."""

from __future__ import annotations

import numpy as np

from curation.distribution.projection import find_chains, project
from curation.validate.label_errors import nearest


def unit(vectors: np.ndarray) -> np.ndarray:
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def test_similar_rows_lie_near_each_other_and_the_map_is_the_same_again() -> None:
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((3, 20)) * 3
    of_row = np.repeat([0, 1, 2], 40)
    vectors = unit(centres[of_row] + rng.standard_normal((120, 20)) * 0.3)
    points, method = project(vectors, method="pca")
    means = np.stack([points[of_row == n].mean(axis=0) for n in range(3)])
    within = max(np.linalg.norm(points[of_row == n] - means[n], axis=1).max() for n in range(3))
    between = min(np.linalg.norm(means[a] - means[b]) for a, b in ((0, 1), (0, 2), (1, 2)))
    assert method == "pca" and within < between / 2
    assert np.array_equal(points, project(vectors, method="pca").points)


def test_few_rows_and_few_dimensions_have_points_too() -> None:
    assert project(np.zeros((0, 4), np.float32)).points.shape == (0, 2)
    assert project(unit(np.ones((3, 4))), method="pca").points.shape == (3, 2)
    assert project(np.ones((3, 1), np.float32), method="pca").points.shape == (3, 2)


def test_a_chain_is_found_and_a_tight_cluster_is_none() -> None:
    angles = np.linspace(0, 1.2, 13)  # neighbours at cosine .995, ends at .36
    chain = np.stack([np.cos(angles), np.sin(angles), np.zeros(13)], axis=1)
    tight = np.array([[0.0, 0.01 * n, 1.0] for n in range(8)])
    vectors = unit(np.vstack([chain, tight]))
    near, cosines = nearest(vectors, 4)
    (found,) = find_chains(vectors, near, cosines, threshold=0.99)
    assert (found.rows, set(found.ends)) == (tuple(range(13)), {0, 12})
    assert found.cosine < 0.4
