"""Choose the number of LSH bands and of bins per band: enough to find nearly every pair at the threshold, at the least cost.

datasketch's search proposes (bands, bins) for several sketch sizes. A sample of the rows then estimates how many dissimilar candidates each
proposal produces: on text with a common vocabulary they, and not the sketches, are the part that grows with the rows.
"""

from __future__ import annotations

from functools import lru_cache
from math import comb, erfc, sqrt

import numpy as np

from curation.dedup.arrow_text import Array, Rows, spread

# Least probability with which a pair *at* the threshold becomes a candidate; more similar pairs do better.
RECALL = 0.995
# Sketch sizes (bins) that proposals are made for.
_SIZES = (64, 80, 128, 160, 192, 288)
# Rows below which sampling costs more than it can save.
_FEW = 10_000
_SAMPLE, _BINS = 1024, 64
# Signature bytes per row, at most; and the share of pairs at the threshold that a signature may reject.
_SIGNED, _MISSED = 320, 1e-4


def bands_for(threshold: float) -> tuple[int, int]:
    """Return (bands, bins per band) for rows of which nothing is known."""
    return max(_proposals(threshold), key=lambda pair: (pair[0] * pair[1] <= 192, pair[1], pair[0]))


def choose_bands(rows: Rows, *, threshold: float, shingle: int, codes: Array) -> tuple[int, int]:
    """Return the (bands, bins per band) that cost the least for these rows.

    Args:
        rows: the texts.
        threshold: Jaccard similarity that must be found.
        shingle: code points in a shingle.
        codes: label number of each row, -1 for none; rows with different numbers are never candidates.
    """
    n = len(rows)
    if n < _FEW:
        return bands_for(threshold)
    alike, shares = _share_by_similarity(rows, shingle), np.bincount(codes + 1) / n
    pairs, length = n * (n - 1) / 2 * float(shares @ shares), float(rows.sizes[:: n // _SAMPLE].mean())

    def cost(pair: tuple[int, int]) -> float:
        """Estimate nanoseconds: equal keys and bins per band, one signature comparison and one text comparison per candidate.

        The constants are measured times; only their ratios matter for the choice.
        """
        bands, width = pair
        candidates = [min(1.0, bands * comb(same, width) / comb(_BINS, width)) * float(share) for same, share in enumerate(alike)]
        close = sum(chance * _passes(same / _BINS, threshold, pair) for same, chance in enumerate(candidates))
        return n * bands * (15 + 8 * width) + pairs * (sum(candidates) * 250 + close * 16 * length)

    return min(_proposals(threshold), key=cost)


@lru_cache(maxsize=64)
def least_alike(threshold: float, bands: tuple[int, int]) -> tuple[int, int]:
    """Return (signature bytes in which two rows must agree to be compared exactly, bytes in a signature).

    A signature is the lowest byte of each bin, padded with zeros to whole 64-bit words. Of pairs at the threshold one in ten thousand
    agrees in fewer bytes; most dissimilar candidates do, and their texts need not be read.
    """
    bins = min(bands[0] * bands[1], _SIGNED)
    # Two different bins share their lowest byte by chance once in 256. Bins are treated as independent, which is conservative here.
    chance, under, least = min(1.0, threshold + (1 - threshold) / 256), 0.0, 0
    while least < bins:
        under += comb(bins, least) * chance**least * (1 - chance) ** (bins - least)
        if under > _MISSED:
            break
        least += 1
    size = -(-bins // 8) * 8
    return least + size - bins, size


def found_at(similarity: float, bands: int, width: int) -> float:
    """Return the probability that a pair shares a band.

    Args:
        similarity: Jaccard similarity of the pair.
        bands: number of bands.
        width: bins per band.
    """
    return float(1 - (1 - similarity**width) ** bands)


def _passes(similarity: float, threshold: float, bands: tuple[int, int]) -> float:
    """Return the probability (normal approximation) that the signatures of a pair do not reject it."""
    bins, least = bands[0] * bands[1], least_alike(threshold, bands)[0]
    deviation = max(1e-9, sqrt(similarity * (1 - similarity) * bins))
    return erfc((least - similarity * bins) / deviation / sqrt(2)) / 2


@lru_cache(maxsize=64)
def _proposals(threshold: float) -> list[tuple[int, int]]:
    from datasketch.lsh import _optimal_param

    if threshold >= 1:
        return [(1, 8)]
    # Candidates are verified, so a miss weighs 499 times a false positive; datasketch's default weighs them equally.
    found = {_optimal_param(threshold, size, 0.002, 0.998) for size in _SIZES}
    good = sorted(pair for pair in found if found_at(threshold, *pair) >= RECALL)
    if good:
        return good
    # Low thresholds: no proposal reaches the recall, so take narrow bands and as many as the recall needs.
    width = 1 if threshold < 0.5 else 2
    return [(int(np.ceil(np.log(1 - RECALL) / np.log1p(-(threshold**width)))), width)]


def _share_by_similarity(rows: Rows, shingle: int) -> Array:
    """Return the share of a sample's pairs that have 0, 1, … of `_BINS` bins in common."""
    from curation.dedup.kernels.sketch import bin_values, count_shared

    sample = np.linspace(0, len(rows) - 1, _SAMPLE).astype(np.int64)
    values, found = np.empty((_SAMPLE, _BINS), np.uint32), np.zeros((_SAMPLE, _BINS + 1), np.int64)
    spread(bin_values, _SAMPLE, sample, rows.raw, shingle, values)
    spread(count_shared, _SAMPLE, values, found)
    totals = found.sum(axis=0)
    return np.asarray(totals / totals.sum())
