"""The rows beside a sample of real use: do they differ, how much, what of it do they not cover, and what is that about."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from curation.distribution.pii import mask_personal
from curation.distribution.schema import Comparison, Point, Topic, Uncovered
from curation.distribution.topics import checked_vectors, find_topics, telling_terms
from curation.errors import ProjectError

_BLOCK = 256

BASELINE = 0.9
"""Share of the real rows that must have another real row within the radius."""


class Coverage(NamedTuple):
    """What is covered, and against what that is to be held."""

    table: pa.Table
    """One line a real row: real, row (its nearest training row), distance (cosine), covered."""
    radius: float
    baseline: float
    """Share of the real rows that another real row covers: equal distributions of equal size are covered about as well."""
    covered: float


def find_uncovered(real: Array, training: Array, *, baseline: float = BASELINE) -> Coverage:
    """For each real vector its nearest training vector, and whether that is within the radius.

    The radius is the cosine distance within which a share `baseline` of the real vectors have another real vector; equal
    vectors are best given once. Both are unit rows. Time grows with real × (training + real) rows, memory with a block of
    256 real rows against the training rows.
    """
    near, distance = _nearest(real, training)
    _, own = _nearest(real, real, same=True)
    radius = float(np.quantile(own, baseline, method="higher")) if len(own) > 1 else 0.0
    covered = distance <= radius + 1e-6
    table = pa.table(
        {"real": pa.array(range(len(real)), pa.int64()), "row": near, "distance": distance.astype(np.float64), "covered": covered}
    )
    return Coverage(table, radius, float((own <= radius + 1e-6).mean()) if len(own) > 1 else 0.0, float(covered.mean()))


def flatten(training: Array, real: Array) -> tuple[Array, Array, float]:
    """Both sides in two dimensions: the first principal components of an even mix, and the share of variance they hold.

    Deterministic: the sign of each axis is fixed by its largest weight. Nearness in the picture is only a hint; coverage
    is decided in all dimensions.
    """
    size = min(len(training), len(real), 5_000)
    mix = np.concatenate([side[np.linspace(0, len(side) - 1, size).astype(int)] for side in (training, real)]).astype(np.float64)
    middle = mix.mean(axis=0)
    values, axes = np.linalg.eigh(np.cov((mix - middle).T))
    best = axes[:, ::-1][:, :2]
    best = best * np.sign(best[np.abs(best).argmax(axis=0), range(best.shape[1])])
    share = float(np.maximum(values[::-1][:2], 0).sum() / max(np.maximum(values, 0).sum(), 1e-12))
    return (training - middle) @ best, (real - middle) @ best, share


def _nearest(queries: Array, base: Array, *, same: bool = False) -> tuple[Array, Array]:
    """Index of the nearest base vector and its cosine distance; with `same` a vector is not its own neighbour."""
    index, distance = np.zeros(len(queries), dtype=np.int64), np.ones(len(queries), dtype=np.float32)
    if same and len(base) < 2:
        return index, distance
    for start in range(0, len(queries), _BLOCK):
        block = queries[start : start + _BLOCK] @ base.T
        if same:
            block[np.arange(len(block)), np.arange(start, start + len(block))] = -2
        index[start : start + len(block)] = block.argmax(axis=1)
        distance[start : start + len(block)] = 1 - block.max(axis=1)
    return index, distance


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


Array = np.ndarray[Any, np.dtype[Any]]

MOST_REAL = 10_000
"""Real rows that coverage looks at; of more a seeded sample."""

_READ_FOR_TERMS = 2_000

_POINTS = 500
"""Rows of each side in the picture."""

_SHOWN = 400


def compare(
    training: tuple[Sequence[str], Array],
    real: tuple[Sequence[str], Array],
    *,
    ids: Sequence[str] | None = None,
    file: str = "",
    column: str = "",
    scope: str = "",
    region: str | None = "US",
    baseline: float = BASELINE,
    shown: int = 50,
    permutations: int = 500,
    seed: int = 0,
) -> Comparison:
    """Hold the training prompts against real ones, each given as texts and their vectors.

    Equal texts count once a side. The test is made on up to 1,500 rows a side and coverage on up to 10,000 real rows, both
    seeded samples; beyond that time grows with the training rows only (one product of real × training vectors).

    Args:
        ids: what names the training rows; their numbers unless given.
        shown: uncovered rows that are written out, the farthest first.

    Raises:
        ProjectError: a side has fewer than five different texts, or a vector is not finite.
    """
    texts, vectors, names = _distinct(*training, ids)
    real_texts, real_vectors, _ = _distinct(*real, None)
    for side, found in (("the project", texts), ("the real sample", real_texts)):
        if len(found) < LEAST:
            raise ProjectError(side, f"has {len(found)} different texts; a comparison needs {LEAST}", "give more rows")
    generator = np.random.default_rng(seed)
    if len(real_texts) > MOST_REAL:
        taken = np.sort(generator.choice(len(real_texts), MOST_REAL, replace=False))
        real_texts, real_vectors = [real_texts[i] for i in taken], real_vectors[taken]
    test = mmd_test(vectors, real_vectors, permutations=permutations, seed=seed)
    coverage = find_uncovered(real_vectors, vectors, baseline=baseline)
    some, real_some = ([_masked(side[i], region) for i in _some(len(side), _READ_FOR_TERMS, generator)] for side in (texts, real_texts))
    more_training, more_real = telling_terms(some, real_some)
    uncovered = _uncovered(coverage, real_texts, texts, names, region=region, shown=shown)
    return Comparison(
        file=file, column=column, scope=scope, training_rows=len(texts), real_rows=len(real_texts), tested=test.sizes, mmd2=test.mmd2,
        p_value=test.p_value, permutations=permutations, auc=separability(vectors, real_vectors, seed=seed),
        covered=coverage.covered, baseline=coverage.baseline, radius=coverage.radius, uncovered=uncovered,
        gaps=_gaps(coverage, real_texts, real_vectors, region=region, seed=seed), more_real=tuple(more_real),
        more_training=tuple(more_training), **_picture(vectors, real_vectors, coverage, generator),
    )  # fmt: skip


def _distinct(texts: Sequence[str], vectors: Array, ids: Sequence[str] | None) -> tuple[list[str], Array, list[str]]:
    """Each text once; an empty one says nothing of use and is left out."""
    unit = checked_vectors(vectors, len(texts))
    first: dict[str, int] = {}
    for row, text in enumerate(texts):
        if text.strip():
            first.setdefault(text, row)
    rows = list(first.values())
    names = [ids[row] if ids is not None else str(row) for row in rows]
    return list(first), unit[rows] if rows else unit[:0], names


def _some(size: int, most: int, generator: np.random.Generator) -> list[int]:
    if size <= most:
        return list(range(size))
    return [int(i) for i in np.sort(generator.choice(size, most, replace=False))]


def _uncovered(
    coverage: Coverage, real: Sequence[str], training: Sequence[str], names: Sequence[str], *, region: str | None, shown: int
) -> tuple[Uncovered, ...]:
    lines = [line for line in coverage.table.to_pylist() if not line["covered"]]
    lines.sort(key=lambda line: (-line["distance"], line["real"]))
    return tuple(
        Uncovered(
            text=_masked(real[line["real"]], region),
            nearest=_masked(training[line["row"]], region),
            row=names[line["row"]],
            distance=line["distance"],
        )
        for line in lines[:shown]
    )


def _gaps(coverage: Coverage, texts: Sequence[str], vectors: Array, *, region: str | None, seed: int) -> tuple[Topic, ...]:
    """What the uncovered rows are about; their share is of all real rows."""
    rows = np.flatnonzero(~coverage.table["covered"].to_numpy())
    if len(rows) < 2 * LEAST:
        return ()
    found = find_topics([texts[int(r)] for r in rows], vectors[rows], topics=min(8, len(rows) // LEAST), region=region, seed=seed)
    return tuple(
        Topic(
            name=line["name"], terms=tuple(line["terms"]), rows=line["rows"], share=line["rows"] / len(texts),
            central=_masked(texts[int(rows[line["central"]])], region),
        )
        for line in found.table.to_pylist()
    )  # fmt: skip


def _masked(text: str, region: str | None) -> str:
    """The beginning of a text; masked before it is cut, for half a value would not be known as one."""
    return mask_personal(text[: 4 * _SHOWN], region=region)[:_SHOWN]


def _picture(training: Array, real: Array, coverage: Coverage, generator: np.random.Generator) -> dict[str, Any]:
    covered = coverage.table["covered"].to_numpy()
    ours, theirs, variance = flatten(training, real)

    def points(places: Array, rows: Sequence[int]) -> tuple[Point, ...]:
        return tuple(Point(x=round(float(places[r, 0]), 3), y=round(float(places[r, 1]), 3)) for r in rows)

    real_rows = _some(len(real), _POINTS, generator)
    return {
        "training_points": points(ours, _some(len(ours), _POINTS, generator)),
        "covered_points": points(theirs, [r for r in real_rows if covered[r]]),
        "uncovered_points": points(theirs, [r for r in real_rows if not covered[r]]),
        "variance": variance,
    }
