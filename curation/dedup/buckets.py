"""Rows that share something that near rows mostly share: a band of their sketches, or, when short, their label."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from curation.dedup.rows import Array, spread

if TYPE_CHECKING:
    from curation.dedup.near import Firsts

SHORT = 240
"""Code points up to which a text is also compared by edits: one edit takes `shingle` shingles with it, which a long text
bears and a short phrase does not."""
_ALL = 1000
"""Short rows of one label up to which all are compared; above, those that share a band of their three-letter shingles."""


@dataclass(frozen=True)
class Buckets:
    """The buckets of place p are members[begins[p]:begins[p + 1]]."""

    begins: Array
    members: Array
    count: int

    def heads(self) -> Array:
        """The first place of each bucket."""
        heads = np.full(self.count, len(self.begins), np.int64)
        np.minimum.at(heads, self.members, np.repeat(np.arange(len(self.begins) - 1), np.diff(self.begins)))
        return heads


@dataclass(frozen=True)
class Short:
    """Buckets of short places, and the normalized code points of those that are in one."""

    buckets: Buckets
    codes: Array
    at: Array
    tolerance: float

    @property
    def arguments(self) -> tuple[Any, ...]:
        """For `keep_best`."""
        return self.buckets.begins, self.buckets.members, self.buckets.count, self.codes, self.at, self.tolerance


def sorted_bands(keys: Array, which: Array) -> list[Array]:
    """For each band (key, place) in one sorted 64-bit number each, of the places whose key another place has too."""
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        return list(pool.map(partial(_shared, which), keys))


def buckets_of(keys: Array, which: Array) -> Buckets:
    """The buckets that at least two places share."""
    from curation.dedup.kernels.runs import count_runs, runs_of

    parts, count = list[Array](), 0
    for packed in sorted_bands(keys, which):
        members, runs = count_runs(packed)
        part = np.empty(members, np.uint64)
        runs_of(packed, count, part)
        parts, count = [*parts, part], count + runs
    return from_pairs(np.concatenate(parts) if parts else np.empty(0, np.uint64), len(which), count)


def from_pairs(pairs: Array, places: int, count: int) -> Buckets:
    """Buckets of (place, bucket) numbers."""
    pairs = np.sort(pairs)
    sizes = np.bincount((pairs >> np.uint64(32)).astype(np.int64), minlength=places)
    return Buckets(np.concatenate([[0], np.cumsum(sizes)]), (pairs & np.uint64(0xFFFFFFFF)).astype(np.int32), count)


def label_buckets(firsts: Firsts, tolerance: float | None) -> Short:
    """Short places of one label together; no buckets where `tolerance` is None."""
    n = len(firsts.which)
    lengths = firsts.keyed.lengths[firsts.which]
    places = np.flatnonzero((firsts.codes >= 0) & (lengths <= SHORT)) if tolerance is not None else np.empty(0, np.int64)
    sizes = np.bincount(firsts.codes[places]) if len(places) else np.zeros(1, np.int64)
    few, many = places[sizes[firsts.codes[places]] <= _ALL], places[sizes[firsts.codes[places]] > _ALL]
    few = few[sizes[firsts.codes[few]] > 1]
    pairs = (few.astype(np.uint64) << np.uint64(32)) | firsts.codes[few].astype(np.uint64)
    count = len(sizes)
    if len(many):
        more, added = _by_three_letters(firsts, many)
        pairs, count = np.concatenate([pairs, more + np.uint64(count)]), count + added
    buckets = from_pairs(pairs, n, count)
    codes, at = _codes_of(firsts, np.flatnonzero(np.diff(buckets.begins) > 0))
    return Short(buckets, codes, at, tolerance or 0.0)


def _by_three_letters(firsts: Firsts, places: Array) -> tuple[Array, int]:
    from curation.dedup.bands import bands_for
    from curation.dedup.keep import salts_of
    from curation.dedup.kernels.sketch import band_keys

    bands, n, rows = bands_for(0.5), len(firsts.first), firsts.keyed.rows
    keys, salts, which = np.empty((bands[0], n), np.uint32), np.zeros(n, np.uint64), firsts.which[places]
    salts[which] = salts_of(firsts.codes[places])
    unused = np.empty(n, np.uint64), np.empty(n, np.int64)
    spread(band_keys, len(which), which, *rows.arguments, *unused, 3, bands, salts, keys, np.empty(n, np.int64), np.empty((n, 0), np.uint8))
    found = buckets_of(keys, which)
    owner = places[np.repeat(np.arange(len(places)), np.diff(found.begins))]
    return (owner.astype(np.uint64) << np.uint64(32)) | found.members.astype(np.uint64), found.count


def _codes_of(firsts: Firsts, places: Array) -> tuple[Array, Array]:
    from curation.dedup.kernels.read import read_rows_into

    at = np.zeros(len(firsts.which) + 1, np.int64)
    at[places + 1] = firsts.keyed.lengths[firsts.which[places]]
    at = np.cumsum(at)
    codes = np.empty(at[-1] + 2 * SHORT + 16, np.uint32)
    read_rows_into(firsts.which[places], at[places], *firsts.keyed.rows.arguments, codes)
    return codes, at


def _shared(which: Array, keys: Array) -> Array:
    from curation.dedup.kernels.runs import mark_repeated

    bits = min(32, max(6, (16 * len(which)).bit_length()))
    once, twice = np.empty((2, 1 << (bits - 6)), np.uint64)
    packed: Array = np.empty(len(which), np.uint64)
    packed = np.sort(packed[: mark_repeated(keys, which, np.uint32(32 - bits), once, twice, packed)])
    if not len(packed):
        return packed
    high = packed >> np.uint64(32)
    same = high[1:] == high[:-1]
    return np.asarray(packed[np.concatenate([same, [False]]) | np.concatenate([[False], same])])
