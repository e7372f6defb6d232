"""Train, validation and test, held apart by what the prompts say: near-duplicate prompts and rows of one seed group share a side.

A split is decided once and never changes: rows that came earlier hold their whole cluster where they are.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from functools import lru_cache

from curation.dedup.sketch import band_keys, bands_for, jaccard, shingle_hashes, sketches
from curation.dedup.text import normalize

SHINGLE = 5
"""Code points in a shingle."""

Assigned = tuple[str | None, str]
"""(split or None when the row's twins stand on two sides, cluster)."""


def split_rows(
    prompts: Sequence[str],
    ids: Sequence[str],
    *,
    shares: Mapping[str, float],
    groups: Sequence[str | None] | None = None,
    frozen: Sequence[str | None] | None = None,
    threshold: float = 0.7,
) -> list[Assigned]:
    """Assign each row a split by the hash of its cluster's first member.

    Args:
        ids: hex ids of the rows, in order of age.
        groups: rows of one group (a conversation, a seed) stay together.
        frozen: the split of rows that already have one.

    Returns (split, cluster) for each row; None where the cluster is already on two sides, which only an outside change of
    the threshold can bring about.
    """
    parents = _join_near(prompts, threshold)
    for a, b in _grouped(groups or [None] * len(prompts)):
        _join(parents, a, b)
    roots = [_root(parents, n) for n in range(len(prompts))]
    sides: dict[int, set[str]] = {}
    for n, split in enumerate(frozen or [None] * len(prompts)):
        if split is not None:
            sides.setdefault(roots[n], set()).add(split)
    assigned: list[Assigned] = []
    for n in range(len(prompts)):
        cluster, held = ids[roots[n]][:16], sides.get(roots[n], set())
        own = frozen[n] if frozen else None
        if own is not None:
            assigned.append((own, cluster))
        elif len(held) > 1:
            assigned.append((None, cluster))
        else:
            assigned.append((next(iter(held)) if held else pick_split(ids[roots[n]], shares), cluster))
    return assigned


def pick_split(identity: str, shares: Mapping[str, float]) -> str:
    """The split whose share of the unit interval the id's hash falls into."""
    point = int.from_bytes(hashlib.sha256(b"split:" + identity.encode()).digest()[:8]) / 2**64
    reached = 0.0
    for split, share in shares.items():
        reached += share
        if point < reached:
            return split
    return next(reversed([split for split, share in shares.items() if share > 0]))


def _join_near(prompts: Sequence[str], threshold: float) -> list[int]:
    """A forest over the rows in which equal and near prompts hang together, through any number of others.

    Dedup asks which row stands for another; here every pair counts, those among rows that dedup drops too.
    """
    texts = [normalize(prompt) for prompt in prompts]
    first = {text: n for n, text in reversed(list(enumerate(texts)))}
    parents = [first[text] for text in texts]
    rows = [n for n, text in enumerate(texts) if first[text] == n and text]
    if not rows:
        return parents
    shingles = lru_cache(maxsize=65_536)(lambda row: shingle_hashes(texts[row], SHINGLE))
    for bucket in _buckets(rows, texts, threshold):
        clusters: list[list[int]] = []
        for row in bucket:
            own, others = [row], list[list[int]]()
            for cluster in clusters:
                is_joined = _root(parents, cluster[0]) == _root(parents, row)
                if is_joined or any(jaccard(shingles(row), shingles(other)) >= threshold for other in cluster):
                    _join(parents, cluster[0], row)
                    own += cluster
                else:
                    others.append(cluster)
            clusters = [*others, own]
    return parents


def _buckets(rows: Sequence[int], texts: Sequence[str], threshold: float) -> list[list[int]]:
    """Rows that share a band of their sketches: among them are the near pairs."""
    bands, width = bands_for(threshold)
    keys = band_keys(sketches([texts[row] for row in rows], shingle=SHINGLE, permutations=bands * width), bands, width)
    found: dict[int, list[int]] = {}
    for row, own in zip(rows, keys.tolist(), strict=True):
        for key in own:
            found.setdefault(key, []).append(row)
    return [bucket for bucket in found.values() if len(bucket) > 1]


def _root(parents: list[int], n: int) -> int:
    while parents[n] != n:
        parents[n] = parents[parents[n]]
        n = parents[n]
    return n


def _join(parents: list[int], a: int, b: int) -> None:
    low, high = sorted((_root(parents, a), _root(parents, b)))
    parents[high] = low


def _grouped(groups: Sequence[str | None]) -> list[tuple[int, int]]:
    first: dict[str, int] = {}
    return [(n, first.setdefault(group, n)) for n, group in enumerate(groups) if group is not None]
