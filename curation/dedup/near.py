"""Near duplicates: texts that share most of their character shingles, and short texts a few edits apart."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa

from curation.dedup.arrow_text import Array, Keyed, Texts, read_by, read_rows, spread
from curation.dedup.lsh_params import choose_bands, least_alike
from curation.dedup.normalization import checked_length
from curation.dedup.resolve import MEASURES, Decided, drop_table, first_of_equal, keeping_order, label_codes, salts_of

LOOKS = 500
"""Rivals that a row is truly compared with in vain before it is kept: where a whole corpus lies just under the threshold, this
and not the square of the rows bounds the time. How many rows gave up stands in the table's metadata."""


@dataclass(frozen=True)
class Firsts:
    """The first of each group of equal rows, best first, with what LSH says of them. A place is an index into `which`."""

    keyed: Keyed
    first: Array
    """For each row the first of its group."""
    order: Array
    """All rows, best first."""
    which: Array
    """Row at each place."""
    codes: Array
    """Label at each place."""
    bands: tuple[int, int]
    keys: Array
    """(bands, rows) 32-bit band keys; equal ones mean an equal band, and an equal label."""
    counts: Array
    """Shingles at each place, repeated ones counted."""
    shingle: int
    signatures: tuple[Array, int]
    """(rows, words) a byte of each bin, eight to a word, and in how many bytes two rows must agree to be looked at closer."""


def find_near(
    texts: Texts,
    *,
    threshold: float = 0.7,
    shingle: int = 5,
    edits: float | None = 0.85,
    labels: Sequence[str | None] | pa.Array | None = None,
    rank: Sequence[int] | None = None,
    bands: tuple[int, int] | None = None,
) -> pa.Table:
    """Pair texts whose character shingles overlap.

    Candidates from sketches are verified, so `similarity` is the true Jaccard; texts whose labels differ are never paired.

    Args:
        threshold: Jaccard similarity from which a row is a twin.
        shingle: code points in a shingle (not bytes, not words).
        edits: short texts that carry the *same label* are twins also from this normalized Levenshtein similarity on.
            Unlabelled texts never are: "capital of Iran" and "capital of Iraq" are two questions. None turns it off.
            At 0.85, nine in ten phrases with one or two edits are found, and one in forty other official terms of the
            same ICD-10-CM code besides those that Jaccard pairs already.
        labels: the class of each row.
        rank: lower is kept; ties by position.
        bands: (bands, bins in each) of the LSH, when the ones chosen for recall are not wanted; every candidate is then
            compared truly, not only those whose signatures are alike.

    Returns one line per dropped row: row, kept, twin, similarity, cluster, measure ("exact", "jaccard" or "levenshtein").
    """
    firsts = read_firsts(texts, threshold=threshold, shingle=shingle, labels=labels, rank=rank, bands=bands)
    decided, tired = _decide(firsts, threshold, edits if labels is not None else None)
    return drop_table(firsts.first, decided, bands=firsts.bands, gave_up=tired)


def find_near_against(
    texts: Texts,
    earlier: Texts,
    *,
    threshold: float = 0.7,
    shingle: int = 5,
    labels: Sequence[str | None] | None = None,
    earlier_labels: Sequence[str | None] | None = None,
) -> pa.Table:
    """Find the rows that are near to one of `earlier`, all of which stay, whatever they resemble among themselves.

    Returns one line per such row: row, twin (place in `earlier`, of the most similar), similarity, measure.
    """
    both = pa.chunked_array([*_chunks(earlier), *_chunks(texts)]) if not isinstance(texts, list) else [*_listed(earlier), *texts]
    n = len(both) - len(texts)
    kinds = None if labels is None else [*(earlier_labels or [None] * n), *labels]
    firsts = read_firsts(both, threshold=threshold, shingle=shingle, labels=kinds)
    decided, _ = _decide(firsts, threshold, None, fixed=int((firsts.which < n).sum()))
    table = drop_table(firsts.first, decided)
    rows, kept = table["row"].to_numpy(), table["kept"].to_numpy()
    found = table.filter(pa.array((rows >= n) & (kept < n)))
    columns = {"row": pa.array(found["row"].to_numpy() - n), "twin": found["twin"]}
    return pa.table({**columns, "similarity": found["similarity"], "measure": found["measure"]})


def read_firsts(
    texts: Texts,
    *,
    threshold: float,
    shingle: int,
    labels: Sequence[str | None] | pa.Array | None = None,
    rank: Sequence[int] | None = None,
    bands: tuple[int, int] | None = None,
) -> Firsts:
    """Normalize, group what is equal, and sketch the first of each group; empty texts have no shingles and are only equal."""
    checked_length(labels, len(texts), "labels")
    checked_length(rank, len(texts), "rank")
    from curation.dedup.kernels.sketch import band_keys

    rows, n = read_rows(texts), len(texts)
    codes, order = label_codes(labels, n), keeping_order(n, rank)
    is_given = bands is not None
    bands = bands or choose_bands(rows, threshold=threshold, shingle=shingle, codes=codes)
    least, size = (0, 0) if is_given else least_alike(threshold, bands)
    keys, counts = np.empty((bands[0], n), np.uint32), np.empty(n, np.int64)
    signatures = np.zeros((n, size), np.uint8)
    keyed = read_by(band_keys, rows, shingle, bands, salts_of(codes), keys, counts, signatures)
    first = first_of_equal(keyed, codes, order)
    which = order[(first[order] == order) & (keyed.lengths[order] > 0)]
    return Firsts(keyed, first, order, which, codes[which], bands, keys, counts[which], shingle, (signatures.view(np.uint64), least))


def _decide(firsts: Firsts, threshold: float, edits: float | None, *, fixed: int = 0) -> tuple[Decided, int]:
    """Walk the places best first; each is kept, or points at the most similar one kept before it."""
    from curation.dedup.kernels.keep import compare_with_first, keep_best

    which, counts, rows = firsts.which, firsts.counts, firsts.keyed.rows.arguments
    buckets = buckets_of(firsts.keys, which)
    short = label_buckets(firsts, None if edits is None else 1 - edits)
    others, scores = np.full(len(buckets.members), -1, np.int32), np.empty(len(buckets.members))
    common = (which, counts, rows, firsts.shingle, threshold, firsts.signatures)
    heads = buckets.heads()
    spread(compare_with_first, len(which), buckets.begins, buckets.members, heads, fixed, *common, others, scores)
    parent, kept = np.arange(len(which)), np.arange(len(which))
    similarity = np.ones(len(which))
    tired = keep_best(
        buckets.begins, buckets.members, buckets.count, fixed, *common, LOOKS, others, scores, short.arguments, parent, kept, similarity
    )
    by_edits = kept < 0
    kept = np.where(by_edits, ~kept, kept)
    measure = np.where(by_edits, MEASURES.index("levenshtein"), MEASURES.index("jaccard"))
    return Decided(which, which[kept], similarity, measure, which[roots_of(parent)]), int(tired)


def roots_of(parent: Array) -> Array:
    """The last ancestor of each place."""
    while (above := parent[parent]) is not parent and (above != parent).any():
        parent = above
    return parent


def _chunks(texts: Texts) -> list[pa.Array]:
    return [chunk.cast(pa.large_binary()) for chunk in read_rows(texts).owners]


def _listed(texts: Texts) -> list[str | None]:
    return texts.to_pylist() if isinstance(texts, pa.Array | pa.ChunkedArray) else list(texts)


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
    from curation.dedup.kernels.sketch import band_keys
    from curation.dedup.lsh_params import bands_for
    from curation.dedup.resolve import salts_of

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
