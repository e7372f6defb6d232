"""How alike a piece of a row and a protected item are, in four ways, and how crowded it is around each item.

lexical: cosine of character n-grams weighted by rarity in the suite, identifiers taken apart. values: cosine of the numbers
and quoted strings. dense: cosine of the embeddings of what each says (`views.gist`). spread: the same after the suite's own
directions are levelled, so that what all its items have in common ("this function takes a list") counts for little.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from curation.dedup.rows import keyed_rows, spread
from curation.leakage.views import gist, plain, values

Array = np.ndarray[Any, np.dtype[Any]]
Encoder = Callable[[Sequence[str]], Array]
"""Texts to L2-normalized rows, as `functools.partial(embed, model=...)` gives."""

LEXICAL, VALUES, DENSE, LEVELLED = range(4)

_SHRINK = 1.0
"""Share of the mean variance that is added to every direction before levelling; a suite has fewer items than dimensions."""


class Prepared(NamedTuple):
    """Texts as the features read them."""

    at: Array
    buckets: Array
    counts: Array
    values: list[Counter[str]]
    dense: Array | None


class Vectors:
    """Embeddings by text, made once."""

    def __init__(self, encode: Encoder | None, known: Mapping[str, Array]) -> None:
        self.encode, self.known = encode, dict(known)

    def of(self, texts: Sequence[str]) -> Array | None:
        """One row per text, or None without an encoder."""
        if self.encode is None:
            return None
        new = list(dict.fromkeys(text for text in texts if text not in self.known))
        if new:
            self.known.update(zip(new, self.encode(new), strict=True))
        return np.stack([self.known[text] for text in texts]).astype(np.float32) if len(texts) else np.zeros((0, 1), np.float32)


def prepare(texts: Sequence[str], vectors: Vectors) -> Prepared:
    """Read texts once for all suites."""
    at, buckets, counts = _bags([plain(text) for text in texts])
    return Prepared(at, buckets, counts, [values(text) for text in texts], vectors.of([gist(text) for text in texts]))


class SuiteFeatures:
    """The items of one suite, as pieces of rows are compared with them."""

    def __init__(self, items: Prepared) -> None:
        n = len(items.values)
        held_by = np.bincount(items.buckets, minlength=1 << 20)
        self.weights = (np.log((1 + n) / (1 + held_by)) + 1).astype(np.float64)
        # What no item holds ("Patient presents with ...") says nothing of which item is meant.
        self.weights[held_by == 0] = self.weights[held_by > 0].min(initial=1 + np.log(1 + n))
        self.at, self.buckets = items.at, items.buckets
        weighted = (1 + np.log(items.counts)) * self.weights[items.buckets]
        self.lexical = (weighted / np.repeat(_norms(weighted**2, items.at), np.diff(items.at))).astype(np.float32)
        self.rarity = {value: float(np.log((1 + n) / (1 + k)) + 1) for value, k in Counter(v for c in items.values for v in c).items()}
        self.unknown = 0.3 * float(np.log((1 + n) / 2) + 1)
        self.values = [self._valued(counted) for counted in items.values]
        self.dense = items.dense
        if items.dense is not None:
            self.mean, self.level = _levelling(items.dense)
            self.levelled = self._levelled(items.dense)

    def compare(self, texts: Prepared, candidates: Array) -> Array:
        """(texts, candidates, features): likeness to each candidate item (-1 is none)."""
        from curation.leakage.kernels.grams import cosines_into

        out = np.zeros((*candidates.shape, 4 if self.dense is not None else 2))
        lexical = np.zeros(candidates.shape)
        common = (texts.at, texts.buckets, (1 + np.log(texts.counts)).astype(np.float64), self.at, self.buckets, self.lexical)
        spread(cosines_into, len(candidates), *common, candidates, self.weights, lexical)
        out[:, :, LEXICAL] = lexical
        for row, counted in enumerate(texts.values):
            own = self._valued(counted) if counted else None
            for place, item in enumerate(candidates[row].tolist() if own else ()):
                out[row, place, VALUES] = _cosine(own, self.values[item]) if item >= 0 else 0.0
        if self.dense is not None and texts.dense is not None:
            known = np.maximum(candidates, 0)
            out[:, :, DENSE] = np.einsum("nd,nkd->nk", texts.dense, self.dense[known])
            out[:, :, LEVELLED] = np.einsum("nd,nkd->nk", self._levelled(texts.dense), self.levelled[known])
        out[candidates < 0] = -1.0
        return out

    def nearest(self, dense: Array, most: int) -> Array:
        """The items nearest by embedding, for what shares few words with them."""
        assert self.dense is not None
        most = min(most, len(self.dense))
        return np.argpartition(-(dense @ self.dense.T), most - 1, axis=1)[:, :most].astype(np.int64)

    def _levelled(self, dense: Array) -> Array:
        moved = (dense - self.mean) @ self.level
        return np.asarray(moved / np.maximum(np.linalg.norm(moved, axis=1, keepdims=True), 1e-9), dtype=np.float32)

    def _valued(self, counted: Counter[str]) -> tuple[dict[str, float], float]:
        weighted = {value: (1 + float(np.log(k))) * self.rarity.get(value, self.unknown) for value, k in counted.items()}
        return weighted, sum(x * x for x in weighted.values()) ** 0.5


def _bags(texts: Sequence[str]) -> tuple[Array, Array, Array]:
    from curation.leakage.kernels.grams import bags_into

    rows = keyed_rows(texts).rows
    at = np.append(0, np.cumsum(3 * (rows.sizes + rows.sizes // 2) + 12)).astype(np.int64)
    buckets, counts, filled = np.empty(int(at[-1]), np.int32), np.empty(int(at[-1]), np.int32), np.zeros(len(rows), np.int64)
    spread(bags_into, len(rows), *rows.arguments, at, buckets, counts, filled)
    starts = np.append(0, np.cumsum(filled)).astype(np.int64)
    kept = np.repeat(at[:-1] - starts[:-1], filled) + np.arange(starts[-1])
    return starts, buckets[kept], counts[kept]


def _norms(squares: Array, at: Array) -> Array:
    sums = np.append(0, np.cumsum(squares))
    return np.asarray(np.sqrt(np.maximum(sums[at[1:]] - sums[at[:-1]], 1e-12)))


def _levelling(dense: Array) -> tuple[Array, Array]:
    mean = dense.mean(axis=0)
    spread_of, axes = np.linalg.eigh(np.cov((dense - mean).T, bias=True) if len(dense) > 1 else np.eye(dense.shape[1]))
    variance = np.maximum(spread_of, 0)
    return mean, np.asarray(axes * (variance + _SHRINK * variance.mean() + 1e-12) ** -0.5)


def _cosine(a: tuple[dict[str, float], float] | None, b: tuple[dict[str, float], float]) -> float:
    if a is None or not a[1] or not b[1]:
        return 0.0
    return sum(weight * b[0].get(value, 0.0) for value, weight in a[0].items()) / (a[1] * b[1])
