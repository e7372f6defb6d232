"""All that hangs together through near pairs, through any number of others: what may not stand on two sides of a split."""

from __future__ import annotations

import numpy as np

from curation.dedup.buckets import sorted_bands
from curation.dedup.near import LOOKS, read_firsts, roots_of
from curation.dedup.rows import Array, Texts


def find_clusters(texts: Texts, *, threshold: float = 0.7, shingle: int = 5) -> Array:
    """For each row the smallest row of its cluster.

    Dedup asks which row stands for another; here every pair counts, those among rows that dedup drops too.
    """
    from curation.dedup.kernels.keep import join_buckets

    firsts = read_firsts(texts, threshold=threshold, shingle=shingle)
    which, n = firsts.which, len(texts)
    parent = np.arange(len(which))
    for packed in sorted_bands(firsts.keys, which):
        places = np.bincount((packed & np.uint64(0xFFFFFFFF)).astype(np.int64), minlength=len(which))
        begins = np.concatenate([[0], np.cumsum(places)])
        common = (which, firsts.counts, firsts.keyed.rows.arguments, firsts.shingle, threshold, firsts.signatures)
        join_buckets(packed, begins, *common, LOOKS, parent)
    root = np.arange(n)
    root[which] = which[roots_of(parent)]
    root = root[firsts.first]
    smallest = np.arange(n)
    np.minimum.at(smallest, root, np.arange(n))
    return np.asarray(smallest[root])
