"""Shingles of a corpus as 64-bit hashes, for tools that accept them."""

from __future__ import annotations

import numpy as np
from numba import njit

from curation.dedup.kernels.read import hash_shingles, read_row


@njit
def count_shingles(n, rows, width):  # type: ignore[no-untyped-def]
    """Count the shingles of each row, repetitions included."""
    codes, counts = np.empty(rows.sizes.max() * 2 + 16, np.uint32), np.empty(n, np.int64)
    for row in range(n):
        counts[row] = max(read_row(rows, row, codes) - width + 1, 1)
    return counts


@njit
def all_shingles(n, rows, width, offsets, out):  # type: ignore[no-untyped-def]
    """Return their hashes, row by row."""
    codes = np.empty(rows.sizes.max() * 2 + 16, np.uint32)
    for row in range(n):
        count = read_row(rows, row, codes)
        hash_shingles(codes, count, width, out[offsets[row] : offsets[row + 1]])
