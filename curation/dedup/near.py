"""Find near duplicates: texts that share most of their character shingles, and short texts a few edits apart.

Rows are normalized and sketched (`kernels.sketch`); rows that share an LSH band are candidates; signatures reject most of them, and the
rest are compared by their exact Jaccard similarity. Rows are then visited best first: each is kept, or dropped for the most
similar kept row. MinHash: Broder 1997; banding: Leskovec, Rajaraman and Ullman, Mining of Massive Datasets, chapter 3.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property, partial
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from curation.dedup.arrow_text import Array, Keyed, RowBytes, Rows, Texts, read_by, read_rows, spread, thread_count
from curation.dedup.lsh import bands_for, choose_bands, least_alike
from curation.dedup.normalization import checked_length
from curation.dedup.resolve import MEASURES, Decided, drop_table, first_of_equal, label_codes, order_by_rank, salts_of

# Exact comparisons without success after which a row is kept. Where a whole corpus lies just below the threshold, this and not the
# square of the rows bounds the time. The table's metadata counts the rows that reached it (`gave_up`).
LIMIT = 500
# Code points up to which a text is also compared by edits: one edit changes `shingle` shingles, which matters in a short phrase only.
SHORT = 240
# Short rows of one label up to which all are compared; above, those that share a band of their 3-code-point shingles.
_ALL = 1000
# Bytes from which a row gets a signature of so many bins more: its comparisons cost as much as hundreds of signatures.
LONG, LONG_BINS = 2000, 1024
# Normalized Levenshtein similarity from which short texts with the same label are duplicates.
EDITS = 0.85
# Rows that share a band up to which every pair is a candidate; in a larger group each row is paired with the first FIRST rows.
WHOLE, FIRST = 256, 64
_32, _LOW = np.uint64(32), np.uint64(0xFFFFFFFF)


class LongSignatures(NamedTuple):
    """Signatures of long rows: so many bins that a pair a little below the threshold is rejected without reading its texts."""

    at: Array
    """Place of each row in `bins`, -1 for a row without one; empty if no row has one."""
    bins: Array
    """(long rows, LONG_BINS) uint8, 0 for an empty bin."""


NO_LONG = LongSignatures(np.empty(0, np.int32), np.empty((0, 0), np.uint8))


class BandSketch(NamedTuple):
    """Parameters of `kernels.sketch.band_keys` and the arrays it fills, one column or row per text."""

    shingle: int
    bands: tuple[int, int]
    salts: Array
    """Number of the row's label; rows with different salts share no key."""
    keys: Array
    """(bands, rows) uint32."""
    counts: Array
    """Shingles of each row, repeated ones included."""
    signatures: Array
    """(rows, bytes) uint8."""
    long: LongSignatures = NO_LONG


class Places(NamedTuple):
    """The distinct rows that are compared, best first, as the compiled loops take them. A place is an index into `which`."""

    which: Array
    """Row at each place, as an index into `rows` and the signatures."""
    counts: Array
    """Shingles at each place; an upper bound is enough."""
    rows: RowBytes
    shingle: int
    floor: float
    """Least Jaccard similarity of interest."""
    signatures: tuple[Array, int]
    """(rows, words) bytes of the bins, eight to a word, and the bytes in which two rows must agree to be compared exactly."""
    fixed: int = 0
    """Places below this are always kept."""
    long: LongSignatures = NO_LONG


class Buckets(NamedTuple):
    """Groups of places to compare. The buckets of place p are members[begins[p]:begins[p + 1]]."""

    begins: Array
    members: Array
    n_buckets: int


class BucketPlaces(NamedTuple):
    """The places of each bucket: those of bucket b are places[begins[b]:begins[b + 1]], best first."""

    begins: Array
    places: Array


class Compared(NamedTuple):
    """Results of the comparisons that are made on all cores (`kernels.keep`)."""

    others: Array
    """Places that each place was compared with, from the beginning of its buckets on; -1 ends them. Of a place that is complete, those
    that it is similar to."""
    scores: Array
    """Similarity to each of them."""
    expected: Array
    """True for a place that the comparisons with first places drop, if these are kept."""
    complete: Array
    """True for a place that was compared with every earlier place of its buckets that is not expected to be dropped."""


class Short(NamedTuple):
    """Buckets of short places with the same label, and the normalized code points of those that are in one."""

    buckets: Buckets
    codes: Array
    at: Array
    """Offset of each place in `codes`."""
    tolerance: float
    """Edits per code point of the longer text."""


class Decision(NamedTuple):
    """Arrays that `kernels.keep.keep_best` fills, one entry per place."""

    parent: Array
    kept: Array
    similarity: Array


class ClosePairs(NamedTuple):
    """The candidate pairs that their signatures do not reject."""

    packed: Array
    """Sorted (later place, earlier place), uint64."""
    crowded: int
    """The most places of one band that share their key with more than WHOLE: not all of their pairs are candidates."""


@dataclass(frozen=True)
class Sketched:
    """Texts that were read and sketched once, for any number of searches: groups of equal ones, and those that share an LSH band."""

    keyed: Keyed
    first: Array
    """First row of each row's group."""
    order: Array
    """All rows, best first."""
    which: Array
    """Row at each place."""
    codes: Array
    """Label at each place."""
    bands: tuple[int, int]
    shared: list[Array]
    """For each band, the sorted (key, place), uint64, of the places that another one with the same 32-bit key may resemble, by their
    signatures; equal keys mean an equal band and an equal label."""
    places: Places
    """In a sketch of some rows (`among`), `places.which` still are their numbers among all."""

    @cached_property
    def close(self) -> ClosePairs:
        """The pairs whose exact similarity must be computed where every similar pair is wanted."""
        from curation.dedup.kernels.compare import close_pairs

        def of_band(packed: Array) -> tuple[Array, int]:
            # The first call only counts, to size the array.
            count, crowded, _ = close_pairs(packed, WHOLE, FIRST, self.places, packed, False)
            pairs: Array = np.empty(count, np.uint64)
            return pairs[: close_pairs(packed, WHOLE, FIRST, self.places, pairs, True)[2]].copy(), crowded

        with ThreadPoolExecutor(thread_count()) as pool:
            found = list(pool.map(of_band, self.shared))
        return ClosePairs(_distinct(np.concatenate([pairs for pairs, _ in found])), max(crowded for _, crowded in found))

    def among(self, rows: Array) -> Sketched:
        """Return the sketch of some of the rows, which are numbered in their order.

        Args:
            rows: ascending.
        """
        n = len(self.first)
        if len(rows) == n:
            return self
        number = np.full(n, -1)
        number[rows] = np.arange(len(rows))
        order = number[self.order]
        order = order[order >= 0]
        # The best of the rows that are left in each group takes its place. Where an index occurs twice, NumPy keeps the last value.
        group, head = self.first[rows], np.full(n, -1)
        head[group[order[::-1]]] = order[::-1]
        heads, rank = head[self.which], np.empty(len(rows), np.int64)
        rank[order] = np.arange(len(rows))
        stays = np.flatnonzero(heads >= 0)
        stays = stays[np.argsort(rank[heads[stays]])]
        place = np.full(len(heads), -1)
        place[stays] = np.arange(len(stays))
        shared = []
        for packed in self.shared:
            places = place[(packed & _LOW).astype(np.int64)]
            is_left = places >= 0
            shared.append(np.sort((packed[is_left] >> _32 << _32) | places[is_left].astype(np.uint64)))
        kept = self.places._replace(which=self.places.which[stays], counts=self.places.counts[stays])
        return Sketched(self.keyed.take(rows), head[group], order, heads[stays], self.codes[stays], self.bands, shared, kept)


def find_near(
    texts: Texts | Rows,
    *,
    threshold: float = 0.7,
    shingle: int = 5,
    edits: float | None = EDITS,
    labels: Sequence[str | None] | pa.Array | None = None,
    rank: Sequence[int] | None = None,
    bands: tuple[int, int] | None = None,
) -> pa.Table:
    """Find texts whose character shingles overlap.

    Candidates are verified, so `similarity` is the exact Jaccard similarity. Texts with different labels are never paired.

    Args:
        texts: the texts.
        threshold: least Jaccard similarity of a duplicate.
        shingle: code points (not bytes, not words) in a shingle.
        edits: least normalized Levenshtein similarity at which short texts with the *same label* are duplicates too. Texts
            without a label are never compared by edits: "capital of Iran" and "capital of Iraq" are two questions. None turns it
            off. At 0.85, nine in ten phrases with one or two edits are found, and one in forty other official terms of the same
            ICD-10-CM code in addition to those that Jaccard pairs already.
        labels: class of each row.
        rank: lower is kept; ties by position.
        bands: (bands, bins per band) of the LSH in place of the ones chosen for recall; every candidate is then compared exactly,
            not only those with similar signatures.

    Returns:
        One line per dropped row: row, kept, twin, similarity, cluster, measure ("exact", "jaccard" or "levenshtein").
    """
    sketched = sketch(texts, threshold=threshold, shingle=shingle, labels=labels, rank=rank, bands=bands)
    return find_drops(sketched, edits=edits if labels is not None else None)


def find_drops(sketched: Sketched, *, edits: float | None = None) -> pa.Table:
    """Return the table of `find_near` for texts that are sketched already."""
    decided, gave_up = _decide(sketched, edits)
    return drop_table(sketched.first, decided, bands=sketched.bands, gave_up=gave_up)


def find_near_against(
    texts: Texts,
    earlier: Texts,
    *,
    threshold: float = 0.7,
    shingle: int = 5,
    labels: Sequence[str | None] | None = None,
    earlier_labels: Sequence[str | None] | None = None,
) -> pa.Table:
    """Find the rows that are near duplicates of `earlier` rows, all of which are kept even if they resemble one another.

    Args:
        texts: the rows to look for.
        earlier: the rows that exist.
        threshold: least Jaccard similarity of a duplicate.
        shingle: code points in a shingle.
        labels: class of each row of `texts`.
        earlier_labels: class of each row of `earlier`.

    Returns:
        One line per duplicate: row, twin (the most similar row of `earlier`), similarity, measure.
    """
    if isinstance(texts, list):
        both: Texts = [*(earlier.to_pylist() if isinstance(earlier, pa.Array | pa.ChunkedArray) else earlier), *texts]
    else:
        # Both as bytes, so that strings and large strings, or texts with lone surrogates, can be chained.
        both = pa.chunked_array([chunk.cast(pa.large_binary()) for side in (earlier, texts) for chunk in read_rows(side).owners])
    n = len(both) - len(texts)
    kinds = None if labels is None else [*(earlier_labels or [None] * n), *labels]
    sketched = sketch(both, threshold=threshold, shingle=shingle, labels=kinds)
    decided, _ = _decide(sketched, None, fixed=int((sketched.which < n).sum()))
    table = drop_table(sketched.first, decided)
    rows, kept = table["row"].to_numpy(), table["kept"].to_numpy()
    found = table.filter(pa.array((rows >= n) & (kept < n)))
    columns = {"row": pa.array(found["row"].to_numpy() - n), "twin": found["twin"]}
    return pa.table({**columns, "similarity": found["similarity"], "measure": found["measure"]})


def sketch(
    texts: Texts | Rows,
    *,
    threshold: float,
    shingle: int,
    labels: Sequence[str | None] | pa.Array | None = None,
    rank: Sequence[int] | None = None,
    bands: tuple[int, int] | None = None,
) -> Sketched:
    """Normalize and sketch the texts, group equal ones, and find those that share a band.

    Args:
        texts: the texts; empty ones have no shingles and are only equal to one another.
        threshold: least Jaccard similarity of interest.
        shingle: code points in a shingle.
        labels: class of each row.
        rank: lower comes first; ties by position.
        bands: (bands, bins per band); chosen for recall when None.
    """
    checked_length(labels, len(texts), "labels")
    checked_length(rank, len(texts), "rank")
    from curation.dedup.kernels.sketch import band_keys

    rows, n = read_rows(texts), len(texts)
    codes, order = label_codes(labels, n), order_by_rank(n, rank)
    least, size, long = 0, 0, NO_LONG
    if bands is None:
        long = _room_for_long(rows.sizes)
        bands = choose_bands(rows, threshold=threshold, shingle=shingle, codes=codes)
        least, size = least_alike(threshold, bands)
    keys, counts, signatures = np.empty((bands[0], n), np.uint32), np.empty(n, np.int64), np.zeros((n, size), np.uint8)
    # One pass reads each text once, hashes it, and fills its band keys and signature.
    keyed = read_by(band_keys, rows, BandSketch(shingle, bands, salts_of(codes), keys, counts, signatures, long))
    first = first_of_equal(keyed, codes, order)
    # Empty texts have no shingles; they are equal to one another and near nothing else.
    which = order[(first[order] == order) & (keyed.lengths[order] > 0)]
    places = Places(which, counts[which], keyed.rows.raw, shingle, threshold, (signatures.view(np.uint64), least), long=long)
    return Sketched(keyed, first, order, which, codes[which], bands, _sorted_bands(keys, which, places), places)


def _room_for_long(sizes: Array) -> LongSignatures:
    """Allocate the signatures of the long rows."""
    long = np.flatnonzero(sizes >= LONG)
    if not len(long):
        return NO_LONG
    at = np.full(len(sizes), -1, np.int32)
    at[long] = np.arange(len(long))
    return LongSignatures(at, np.zeros((len(long), LONG_BINS), np.uint8))


def roots_of(parent: Array) -> Array:
    """Return the root of each place in a union-find forest."""
    while (above := parent[parent]) is not parent and (above != parent).any():
        parent = above
    return parent


def _distinct(values: Array) -> Array:
    """Return the sorted distinct values, as `np.unique` does by a hash table in ten times the time."""
    ranked = np.sort(values)
    return ranked[np.append(True, ranked[1:] != ranked[:-1])] if len(ranked) else ranked


def _sorted_bands(keys: Array, which: Array, places: Places | None = None) -> list[Array]:
    """Return `Sketched.shared` from the (bands, rows) keys; without `places` no signature is looked at."""
    with ThreadPoolExecutor(thread_count()) as pool:
        return list(pool.map(partial(_shared_keys, which, places), keys))


def _shared_keys(which: Array, places: Places | None, keys: Array) -> Array:
    from curation.dedup.kernels.compare import leave_close
    from curation.dedup.kernels.sketch import mark_repeated

    # 16 slots per row keep chance collisions rare; a slot takes two bits.
    bits = min(32, max(6, (16 * len(which)).bit_length()))
    once, twice = np.empty((2, 1 << (bits - 6)), np.uint64)
    packed: Array = np.empty(len(which), np.uint64)
    ranked = np.sort(packed[: mark_repeated(keys, which, np.uint32(32 - bits), once, twice, packed)])
    return ranked if places is None else ranked[: leave_close(ranked, WHOLE, places)].copy()


def _decide(sketched: Sketched, edits: float | None, *, fixed: int = 0) -> tuple[Decided, int]:
    """Visit the places best first; each is kept, or dropped for the most similar place kept before it."""
    from curation.dedup.kernels.keep import compare_with_first, compare_with_rest, expect_dropped, keep_best

    places = sketched.places._replace(fixed=fixed)
    n = len(places.which)
    buckets = _buckets_of(sketched.shared, n)
    members, most = _places_of(buckets), int(places.rows.sizes[places.which[np.diff(buckets.begins) > 0]].max(initial=1))
    # The visit must be sequential, so what it needs is compared before, on all cores: every place with the best place of each of its
    # buckets, which mostly decides it, then with the others that are likely to be kept.
    others, scores = np.full(len(buckets.members), -1, np.int32), np.empty(len(buckets.members))
    compared = Compared(others, scores, np.zeros(n, np.bool_), np.zeros(n, np.bool_))
    spread(compare_with_first, n, buckets, members, places, most, compared)
    expect_dropped(buckets.begins, compared)
    spread(compare_with_rest, n, buckets, members, places, most, LIMIT, compared)
    result = Decision(np.arange(n), np.arange(n), np.ones(n))
    gave_up = keep_best(buckets, places, most, LIMIT, compared, _short_buckets(sketched, None if edits is None else 1 - edits), result)
    # The loop stores a place that was dropped by edits as its bitwise complement.
    by_edits = result.kept < 0
    kept = np.where(by_edits, ~result.kept, result.kept)
    measure = np.where(by_edits, MEASURES.index("levenshtein"), MEASURES.index("jaccard"))
    which = sketched.which
    return Decided(which, which[kept], result.similarity, measure, which[roots_of(result.parent)]), int(gave_up)


def _buckets_of(bands: list[Array], places: int) -> Buckets:
    """Return one bucket for each band key that at least two places share."""
    from curation.dedup.kernels.sketch import count_members, write_members

    sizes, count = np.zeros(places, np.int64), 0
    numbers = [count := count + count_members(packed, sizes) for packed in bands]
    begins = np.concatenate([[0], np.cumsum(sizes)])
    members, at = np.empty(begins[-1], np.int32), begins[:-1].copy()
    for packed, first_bucket in zip(bands, [0, *numbers], strict=False):
        write_members(packed, first_bucket, at, members)
    return Buckets(begins, members, count)


def _places_of(buckets: Buckets) -> BucketPlaces:
    """Return the places of each bucket."""
    from curation.dedup.kernels.keep import write_places

    begins = np.concatenate([[0], np.cumsum(np.bincount(buckets.members, minlength=buckets.n_buckets))])
    places = np.empty(len(buckets.members), np.int32)
    write_places(buckets, begins[:-1].copy(), places)
    return BucketPlaces(begins, places)


def _from_pairs(pairs: Array, places: int, count: int) -> Buckets:
    """Return the buckets of packed (place, bucket) numbers."""
    pairs = np.sort(pairs)
    sizes = np.bincount((pairs >> _32).astype(np.int64), minlength=places)
    return Buckets(np.concatenate([[0], np.cumsum(sizes)]), (pairs & _LOW).astype(np.int32), count)


def _short_buckets(sketched: Sketched, tolerance: float | None) -> Short:
    """Group the short places of each label; no buckets if `tolerance` is None."""
    from curation.dedup.kernels.read import read_rows_into

    which, labels = sketched.places.which, sketched.codes
    lengths = sketched.keyed.lengths[sketched.which]
    places = np.flatnonzero((labels >= 0) & (lengths <= SHORT)) if tolerance is not None else np.empty(0, np.int64)
    sizes = np.bincount(labels[places]) if len(places) else np.zeros(1, np.int64)
    few, many = places[sizes[labels[places]] <= _ALL], places[sizes[labels[places]] > _ALL]
    # A label with one short row has nothing to compare. The number of a label is the number of its bucket.
    few = few[sizes[labels[few]] > 1]
    pairs, count = (few.astype(np.uint64) << _32) | labels[few].astype(np.uint64), len(sizes)
    if len(many):
        more, added = _by_three_letters(sketched, many)
        # The numbers of these buckets follow those of the labels.
        pairs, count = np.concatenate([pairs, more + np.uint64(count)]), count + added
    buckets = _from_pairs(pairs, len(which), count)
    used = np.flatnonzero(np.diff(buckets.begins) > 0)
    at = np.zeros(len(which) + 1, np.int64)
    at[used + 1] = lengths[used]
    at = np.cumsum(at)
    # `read_row` writes beyond the last code point, so the last row needs room behind it.
    codes = np.empty(at[-1] + 2 * SHORT + 16, np.uint32)
    read_rows_into(which[used], at[used], sketched.places.rows, codes)
    return Short(buckets, codes, at, tolerance or 0.0)


def _by_three_letters(sketched: Sketched, places: Array) -> tuple[Array, int]:
    """Return packed (place, bucket) for the bands of 3-code-point shingles of short places, and the number of buckets."""
    from curation.dedup.kernels.sketch import band_keys

    bands, n, which = bands_for(0.5), len(sketched.places.rows.sizes), sketched.places.which[places]
    salts = np.zeros(n, np.uint64)
    salts[which] = salts_of(sketched.codes[places])
    to_fill = BandSketch(3, bands, salts, np.empty((bands[0], n), np.uint32), np.empty(n, np.int64), np.empty((n, 0), np.uint8))
    unused = np.empty(n, np.uint64), np.empty(n, np.int64)
    spread(band_keys, len(which), which, sketched.places.rows, *unused, to_fill)
    found = _buckets_of(_sorted_bands(to_fill.keys, which), len(which))
    owner = places[np.repeat(np.arange(len(places)), np.diff(found.begins))]
    return (owner.astype(np.uint64) << _32) | found.members.astype(np.uint64), found.n_buckets
