"""Find rows whose label is probably wrong, from the embeddings of their texts.

Each row gets an out-of-sample probability of every label: the prediction of a ridge regression that was fitted without the row (exact, in
closed form from the hat matrix) plus half the share of its nearest neighbours, through a softmax whose temperature maximizes the likelihood
of the given labels. The probability of the row's own label ranks errors, as self-confidence does in confident learning (Northcutt,
Jiang and Chuang 2021). On planted errors in Banking77 this ranks better than neighbours alone, and like cross-validated logistic
regression: better where labels are confused, worse where errors are few and random (benchmarks/RESULTS.md).

Second, pairs of nearly equal texts with different labels: at most one of the two labels is right.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

LEAST_ROWS = 5
"""Rows that a label needs to be judged: fewer neighbours of the same label say nothing."""
LEAST_TOTAL = 50
"""Rows of such labels that are needed altogether."""
LEAST_AGREEMENT = 0.5
"""Share of rows whose most likely label is their own that is needed. Below it the texts do not show their labels, or most labels are
wrong, and a prediction is no evidence against a label."""
PENALTY = 1.0
"""Of the ridge regression; between 0.3 and 10 the ranking hardly changes."""
WEIGHT = 0.5
"""Weight of the neighbours' shares; the regression has the rest."""
TEMPERATURES = (0.04, 0.06, 0.08, 0.1, 0.12, 0.15, 0.2, 0.3, 0.5)
EXACT_UP_TO = 20_000
"""Rows up to which neighbours are searched exactly; above, an inverted file is probed."""
_PROBES = 12
_SEARCHED = 50
"""Neighbours that are searched for nearly equal texts. Of a pair only one side needs the other among its nearest."""
_BLOCK = 4096

Array = np.ndarray[Any, np.dtype[Any]]


class Suspect(NamedTuple):
    """A row whose label is probably wrong."""

    row: int
    suggested: str
    """The most likely label."""
    probability: float
    """Of the row's own label."""
    suggested_probability: float
    share: float
    """Part of the neighbours that carry the row's own label."""
    suggested_share: float
    """Part of the neighbours that carry the suggested label."""
    neighbours: tuple[int, ...]
    """Rows, the nearest first."""
    cosines: tuple[float, ...]
    """Of the row and each neighbour."""


class Pair(NamedTuple):
    """Two nearly equal texts with different labels; the first label is the less likely one for its text."""

    row: int
    twin: int
    cosine: float
    probability: float
    """Of the first row's label."""


@dataclass(frozen=True)
class LabelErrors:
    """Result of the search."""

    suspects: Sequence[Suspect] = ()
    """The least likely label first."""
    pairs: Sequence[Pair] = ()
    """The highest cosine first."""
    judged: int = 0
    """Rows whose label was judged."""
    agreement: float = 0.0
    """Share of the judged rows whose most likely label is their own."""
    skipped: str = ""
    """Why no label was judged; empty where labels were."""


def find_label_errors(
    vectors: Array, labels: Sequence[str | None], *, neighbours: int = 10, probability: float = 0.02, pair: float = 0.95
) -> LabelErrors:
    """Find the rows whose label their text and their neighbours speak against. The result is the same for the same input.

    Rows without a label, and rows of labels with fewer than `LEAST_ROWS` rows, are left out. 50,000 rows with 300 labels take about
    11 s of processor time.

    Args:
        vectors: (n, d) L2-normalized embeddings of the texts.
        labels: of the rows.
        neighbours: nearest rows that vote.
        probability: a row whose own label has a lower probability, and is not the most likely one, is a suspect.
        pair: least cosine of two nearly equal texts.
    """
    names, of_row, counts = np.unique([label or "" for label in labels], return_inverse=True, return_counts=True)
    usable = (names != "") & (counts >= LEAST_ROWS)
    rows = np.flatnonzero(usable[of_row])
    if why := reason_to_skip(labels):
        return LabelErrors(skipped=why)
    classes = np.flatnonzero(usable)
    codes = np.searchsorted(classes, of_row[rows])
    unit = np.ascontiguousarray(vectors[rows], dtype=np.float32)
    near, cosines = nearest(unit, max(neighbours, min(_SEARCHED, len(rows) - 1)))
    model = _Support(unit, codes, len(classes), near[:, :neighbours])
    temperature = model.fit()
    own, best, likeliest = model.probabilities(temperature)
    agreement = float((likeliest == codes).mean())
    if agreement < LEAST_AGREEMENT:
        return LabelErrors(
            judged=len(rows),
            agreement=agreement,
            skipped=f"only {agreement:.0%} of the labels follow from the texts; below {LEAST_AGREEMENT:.0%} a prediction is no evidence",
        )
    votes, mine = codes[near[:, :neighbours]], np.flatnonzero((own < probability) & (likeliest != codes))
    suspects = [
        Suspect(
            int(rows[n]), str(names[classes[likeliest[n]]]), float(own[n]), float(best[n]),
            float((votes[n] == codes[n]).mean()), float((votes[n] == likeliest[n]).mean()),
            tuple(rows[near[n, :neighbours]].tolist()), tuple(cosines[n, :neighbours].tolist()),
        )
        for n in mine[np.lexsort((mine, own[mine]))].tolist()
    ]  # fmt: skip
    return LabelErrors(suspects, _pairs(rows, codes, near, cosines, own, pair), len(rows), agreement)


def reason_to_skip(labels: Sequence[str | None]) -> str:
    """Return why labels cannot be judged, which needs no vectors; empty where they can."""
    counts = Counter(label for label in labels if label)
    if len(counts) < 2:
        return "all rows have one label" if counts else "no row has a label"
    common = [n for n in counts.values() if n >= LEAST_ROWS]
    if len(common) < 2 or sum(common) < LEAST_TOTAL:
        return f"at least {LEAST_TOTAL} rows are needed of labels that have {LEAST_ROWS} rows or more; there are {sum(common):,}"
    return ""


def nearest(unit: Array, most: int) -> tuple[Array, Array]:
    """Return the nearest other rows of each row and their cosines, both (n, most); the nearest first, the row itself left out.

    Args:
        unit: (n, d) unit vectors, float32.
        most: rows to find, fewer than n.
    """
    import faiss

    n, size = unit.shape
    if n <= EXACT_UP_TO:
        index: Any = faiss.IndexFlatIP(size)
    else:
        cells = int(2 * np.sqrt(n))
        index = faiss.IndexIVFFlat(faiss.IndexFlatIP(size), size, cells, faiss.METRIC_INNER_PRODUCT)
        index.cp.seed, index.cp.niter, index.cp.max_points_per_centroid, index.nprobe = 0, 8, 64, min(_PROBES, cells)
        index.train(unit)
    index.add(unit)
    cosines, found = index.search(unit, most + 1)
    # Of equal texts another one may be found first, so the row itself is looked for. Without it the last one is left out.
    is_self = found == np.arange(n)[:, None]
    is_self[~is_self.any(axis=1), -1] = True
    # A probe of few cells may find too few rows; the row itself then takes their places and its own vote.
    found, cosines = found[~is_self].reshape(n, most), cosines[~is_self].reshape(n, most)
    missing = found < 0
    found[missing], cosines[missing] = np.broadcast_to(np.arange(n)[:, None], found.shape)[missing], -1.0
    return found, np.minimum(cosines, 1.0)


class _Support:
    """The evidence for each label of each row: the regression without the row, plus the neighbours' shares."""

    def __init__(self, unit: Array, codes: Array, classes: int, near: Array) -> None:
        design = np.hstack([unit, np.ones((len(unit), 1), np.float32)]).astype(np.float64)
        inverse = np.linalg.inv(design.T @ design + PENALTY * np.eye(design.shape[1]))
        sums = np.zeros((classes, design.shape[1]))
        np.add.at(sums, codes, design)
        self.design, self.weights = design, inverse @ sums.T
        self.leverage = np.einsum("ij,ij->i", design @ inverse, design)
        self.codes, self.classes, self.near = codes, classes, near

    def of(self, rows: Array) -> Array:
        """Return the support of each label for some rows, (rows, classes)."""
        at, own = np.arange(len(rows)), self.codes[rows]
        # Leaving row i out changes its prediction to (f - h y) / (1 - h), with h the row's leverage.
        support = self.design[rows] @ self.weights
        support[at, own] -= self.leverage[rows]
        support /= (1 - self.leverage[rows])[:, None]
        votes = self.codes[self.near[rows]]
        np.add.at(support, (at[:, None], votes), WEIGHT / votes.shape[1])
        return np.asarray(support)

    def fit(self) -> float:
        """Return the temperature under which the given labels are most likely."""
        rows = np.random.default_rng(0).permutation(len(self.codes))[: 4 * _BLOCK]
        support, own = self.of(rows), (np.arange(len(rows)), self.codes[rows])
        losses = [-np.log(np.maximum(_softmax(support / one)[own], 1e-12)).mean() for one in TEMPERATURES]
        return TEMPERATURES[int(np.argmin(losses))]

    def probabilities(self, temperature: float) -> tuple[Array, Array, Array]:
        """Return of each row the probability of its own label, that of the most likely label, and the most likely label."""
        own, best, likeliest = (np.empty(len(self.codes), kind) for kind in (np.float64, np.float64, np.int64))
        for start in range(0, len(self.codes), _BLOCK):
            rows = np.arange(start, min(start + _BLOCK, len(self.codes)))
            chances = _softmax(self.of(rows) / temperature)
            own[rows] = chances[np.arange(len(rows)), self.codes[rows]]
            likeliest[rows], best[rows] = chances.argmax(axis=1), chances.max(axis=1)
        return own, best, likeliest


def _softmax(support: Array) -> Array:
    powers = np.exp(support - support.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))


def _pairs(rows: Array, codes: Array, near: Array, cosines: Array, own: Array, least: float) -> list[Pair]:
    """Return the pairs at a cosine whose labels differ, each once, with the less likely label first."""
    found: dict[tuple[int, int], Pair] = {}
    for n, place in np.argwhere((cosines >= least) & (codes[near] != codes[:, None])).tolist():
        twin = int(near[n, place])
        first, second = sorted((n, twin), key=lambda one: (own[one], -one))
        pair = Pair(int(rows[first]), int(rows[second]), float(cosines[n, place]), float(own[first]))
        found[min(n, twin), max(n, twin)] = pair
    return sorted(found.values(), key=lambda pair: (-pair.cosine, pair.row, pair.twin))
