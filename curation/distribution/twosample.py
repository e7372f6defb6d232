"""Whether two sets of vectors come from one distribution: the kernel two-sample test, and how well a classifier tells them apart.

Sources: Gretton et al. 2012, A Kernel Two-Sample Test (unbiased MMD, RBF kernel with the median heuristic, permutations);
Phipson and Smyth 2010 (a permutation p-value counts the sample itself, so it is never 0); Lopez-Paz and Oquab 2017
(classifier two-sample tests).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from curation.errors import ProjectError

Array = np.ndarray[Any, np.dtype[Any]]

MOST = 1_500
"""Vectors of each side that the exact test takes; of more a seeded sample. 3,000 together make a kernel of 72 MB."""
LEAST = 5
"""With fewer on a side no permutation test can reach p < .01."""


class TwoSample(NamedTuple):
    """A test and the sample it was made on."""

    mmd2: float
    p_value: float
    sizes: tuple[int, int]
    bandwidth: float
    permutations: int


def mmd_test(first: Array, second: Array, *, permutations: int = 500, most: int = MOST, seed: int = 0) -> TwoSample:
    """Squared MMD, unbiased, and the share of relabelings that reach it.

    Exact on up to `most` vectors a side, else on a seeded sample of that size: time and memory then stop growing with the
    rows (quadratic in the sample, about 3 s and 200 MB at 1,500 + 1,500).

    Raises:
        ProjectError: a side has fewer than five vectors.
    """
    if min(len(first), len(second)) < LEAST:
        raise ProjectError("the two-sample test", f"needs {LEAST} rows a side; there are {len(first)} and {len(second)}", "give more rows")
    generator = np.random.default_rng(seed)
    x, y = (_sample(side, most, generator) for side in (first, second))
    kernel, bandwidth = _kernel(np.concatenate([x, y]).astype(np.float64))
    n, m = len(x), len(y)
    labels = np.zeros((n + m, permutations + 1))
    labels[:n, 0] = 1
    for column in range(1, permutations + 1):
        labels[generator.permutation(n + m)[:n], column] = 1
    values = _mmd2(kernel, labels, n, m)
    reached = int((values[1:] >= values[0] - 1e-12).sum())
    return TwoSample(float(values[0]), (1 + reached) / (1 + permutations), (n, m), bandwidth, permutations)


def separability(first: Array, second: Array, *, most: int = MOST, seed: int = 0) -> float:
    """Cross-validated AUC of a linear classifier between the two sets: .5 when it cannot tell them apart, 1 when it always can.

    The size of a difference, where the p-value only says that there is one: with enough rows any difference is significant.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import roc_auc_score
    from sklearn.model_selection import StratifiedKFold, cross_val_predict

    generator = np.random.default_rng(seed)
    x, y = (_sample(side, most, generator) for side in (first, second))
    truth = np.r_[np.zeros(len(x)), np.ones(len(y))]
    folds = StratifiedKFold(min(5, len(x), len(y)), shuffle=True, random_state=seed)
    model = LogisticRegression(C=1.0, class_weight="balanced", max_iter=500)
    scores = cross_val_predict(model, np.concatenate([x, y]), truth, cv=folds, method="decision_function")
    return float(roc_auc_score(truth, scores))


def _sample(side: Array, most: int, generator: np.random.Generator) -> Array:
    return side if len(side) <= most else side[np.sort(generator.choice(len(side), most, replace=False))]


def _kernel(both: Array) -> tuple[Array, float]:
    """RBF on the median of the squared distances, its diagonal 0 so that no point counts against itself."""
    norms = (both**2).sum(axis=1)
    squared = np.maximum(norms[:, None] + norms[None, :] - 2 * both @ both.T, 0)
    middle = float(np.median(squared[np.triu_indices(len(both), 1)]))
    bandwidth = middle if middle > 0 else 1.0
    kernel = np.exp(-squared / bandwidth)
    np.fill_diagonal(kernel, 0)
    return kernel, bandwidth


def _mmd2(kernel: Array, labels: Array, n: int, m: int) -> Array:
    """For each column of 0/1 labels; one product for all relabelings."""
    toward = kernel @ labels
    inside = (labels * toward).sum(axis=0)
    all_first = toward.sum(axis=0)
    across = all_first - inside
    outside = kernel.sum() - inside - 2 * across
    return np.asarray(inside / (n * (n - 1)) + outside / (m * (m - 1)) - 2 * across / (n * m))
