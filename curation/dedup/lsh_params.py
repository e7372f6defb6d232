"""How many bands of how many bins: enough to find next to every pair at the threshold, and no more work than that takes.

datasketch's search proposes pairs of numbers for several sketch sizes; a sample of the rows says how many unlike pairs each
would bring up, since on text with a common vocabulary that, and not the sketch, is what grows with the rows.
"""

from __future__ import annotations

from functools import lru_cache
from math import comb, erfc, sqrt

import numpy as np

from curation.dedup.arrow_text import Array, Rows, spread

RECALL = 0.995
"""Least probability with which a pair *at* the threshold is found; pairs above do better."""
_SIZES = (64, 80, 128, 160, 192, 288)
_FEW = 10_000
"""Rows below which there is nothing to gain by a sample."""
_SAMPLE, _BINS = 1024, 64
_SIGNED, _MISSED = 320, 1e-4


def bands_for(threshold: float) -> tuple[int, int]:
    """(bands, bins in each) for rows of which nothing is known."""
    return max(_proposals(threshold), key=lambda pair: (pair[0] * pair[1] <= 192, pair[1], pair[0]))


def choose_bands(rows: Rows, *, threshold: float, shingle: int, codes: Array) -> tuple[int, int]:
    """(bands, bins in each) for these rows: of the proposals the one that costs the least at their density."""
    n = len(rows)
    if n < _FEW:
        return bands_for(threshold)
    alike, shares = _alike(rows, shingle), np.bincount(codes + 1) / n
    pairs, length = n * (n - 1) / 2 * float(shares @ shares), float(rows.sizes[:: n // _SAMPLE].mean())

    def cost(pair: tuple[int, int]) -> float:
        """Nanoseconds: finding equal keys in a band, filling a bin, holding a candidate's signature and its text against
        another's, as measured.
        """
        bands, width = pair
        looks = [min(1.0, bands * comb(same, width) / comb(_BINS, width)) * float(share) for same, share in enumerate(alike)]
        close = sum(look * _passes(same / _BINS, threshold, pair) for same, look in enumerate(looks))
        return n * bands * (15 + 8 * width) + pairs * (sum(looks) * 250 + close * 16 * length)

    return min(_proposals(threshold), key=cost)


@lru_cache(maxsize=64)
def least_alike(threshold: float, bands: tuple[int, int]) -> tuple[int, int]:
    """(in how many bytes of a signature two rows must agree to be compared truly, bytes in a signature).

    A signature is the lowest byte of each bin, filled up with zeros to whole words. Of pairs at the threshold one in ten
    thousand agrees in fewer (bins are filled independently or better); unlike ones mostly do, and need not be read.
    """
    bins = min(bands[0] * bands[1], _SIGNED)
    chance, under, least = min(1.0, threshold + (1 - threshold) / 256), 0.0, 0
    while least < bins:
        under += comb(bins, least) * chance**least * (1 - chance) ** (bins - least)
        if under > _MISSED:
            break
        least += 1
    size = -(-bins // 8) * 8
    return least + size - bins, size


def _passes(similarity: float, threshold: float, bands: tuple[int, int]) -> float:
    """The probability that the signatures of a pair of this similarity do not stop it."""
    bins, least = bands[0] * bands[1], least_alike(threshold, bands)[0]
    deviation = max(1e-9, sqrt(similarity * (1 - similarity) * bins))
    return erfc((least - similarity * bins) / deviation / sqrt(2)) / 2


def found_at(similarity: float, bands: int, width: int) -> float:
    """The probability that a pair of this similarity shares a band."""
    return float(1 - (1 - similarity**width) ** bands)


@lru_cache(maxsize=64)
def _proposals(threshold: float) -> list[tuple[int, int]]:
    from datasketch.lsh import _optimal_param

    if threshold >= 1:
        return [(1, 8)]
    # Candidates are verified, so a miss weighs 499 times a false alarm; datasketch's own default weighs them alike.
    found = {_optimal_param(threshold, size, 0.002, 0.998) for size in _SIZES}
    good = sorted(pair for pair in found if found_at(threshold, *pair) >= RECALL)
    if good:
        return good
    width = 1 if threshold < 0.5 else 2
    return [(int(np.ceil(np.log(1 - RECALL) / np.log1p(-(threshold**width)))), width)]


def _alike(rows: Rows, shingle: int) -> Array:
    """Share of the sample's pairs that have 0, 1, … of `_BINS` bins in common."""
    from curation.dedup.kernels.sketch import bin_values, count_alike

    sample = np.linspace(0, len(rows) - 1, _SAMPLE).astype(np.int64)
    values, found = np.empty((_SAMPLE, _BINS), np.uint32), np.zeros((_SAMPLE, _BINS + 1), np.int64)
    spread(bin_values, _SAMPLE, sample, *rows.arguments, shingle, values)
    spread(count_alike, _SAMPLE, values, found)
    totals = found.sum(axis=0)
    return np.asarray(totals / totals.sum())
