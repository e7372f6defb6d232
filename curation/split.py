"""Train, validation and test, held apart by what the prompts say: near-duplicate prompts and rows of one seed group share a side.

A split is decided once and never changes: rows that came earlier hold their whole cluster where they are.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

from curation.dedup.clusters import find_clusters

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
    parents: list[int] = find_clusters(list(prompts), threshold=threshold).tolist()
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
