"""Rows that share something that near rows mostly share: a band of their sketches, or, when short, their label."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from curation.dedup.rows import Array, Rows, spread

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


def band_keys_of(rows: Rows, which: Array, salts: Array, *, bands: tuple[int, int], shingle: int) -> tuple[Array, Array]:
    """((bands, places) 32-bit keys, shingles at each place): equal keys in a band mean an equal band, and an equal salt."""
    from curation.dedup.kernels.sketch import band_keys

    keys, counts = np.empty((bands[0], len(which)), np.uint32), np.empty(len(which), np.int64)
    spread(band_keys, len(which), which, *rows.arguments, shingle, bands, salts, keys, counts)
    return keys, counts


def sorted_bands(keys: Array) -> list[Array]:
    """For each band (key, place) in one sorted 64-bit number each, of the places whose key another place has too."""
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        return list(pool.map(_shared, keys))


def buckets_of(keys: Array) -> Buckets:
    """The buckets that at least two places share."""
    from curation.dedup.kernels.runs import count_runs, runs_of

    parts, count = list[Array](), 0
    for packed in sorted_bands(keys):
        members, runs = count_runs(packed)
        part = np.empty(members, np.uint64)
        runs_of(packed, count, part)
        parts, count = [*parts, part], count + runs
    return from_pairs(np.concatenate(parts) if parts else np.empty(0, np.uint64), keys.shape[1], count)


def from_pairs(pairs: Array, places: int, count: int) -> Buckets:
    """Buckets of (place, bucket) numbers."""
    pairs = np.sort(pairs)
    begins = np.searchsorted(pairs >> np.uint64(32), np.arange(places + 1, dtype=np.uint64))
    return Buckets(begins.astype(np.int64), (pairs & np.uint64(0xFFFFFFFF)).astype(np.int32), count)


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

    keys, _ = band_keys_of(firsts.keyed.rows, firsts.which[places], salts_of(firsts.codes[places]), bands=bands_for(0.5), shingle=3)
    found = buckets_of(keys)
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


def _shared(keys: Array) -> Array:
    packed = np.sort((keys.astype(np.uint64) << np.uint64(32)) | np.arange(len(keys), dtype=np.uint64))
    high = packed >> np.uint64(32)
    same = high[1:] == high[:-1]
    return packed[np.concatenate([same, [False]]) | np.concatenate([[False], same])] if len(packed) else packed
