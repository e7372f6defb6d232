"""Locality-sensitive hashing (LSH) for near duplicates: the number of bands, and a persistent index across snapshots.

`choose_bands` takes proposals of (bands, bins) for several sketch sizes, by the rule of datasketch's optimizer, and estimates, on a sample
of the rows, how many dissimilar candidates each produces: on text with a common vocabulary they, and not the sketches, are the part
that grows with the rows.

`NearIndex` is datasketch's `MinHashLSH` in this process or in Redis. A team that shares a Redis compares new rows with the released rows
of other projects without holding their texts; only the texts of candidates are read, and they are compared exactly. Keys are bytes and
`prepickle` is off, so nothing is ever unpickled.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import comb, erfc, sqrt
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from curation.dedup.arrow_text import Array, Rows, Texts, keyed_rows, spread
from curation.errors import ProjectError

# Least probability with which a pair *at* the threshold becomes a candidate; more similar pairs do better.
RECALL = 0.995
# Sketch sizes (bins) that proposals are made for.
_SIZES = (64, 80, 128, 160, 192, 288)
# Rows below which sampling costs more than it can save.
FEW = 10_000
# Rows above which wider bands than the sketches of one process are considered.
MANY = 20_000_000
_SAMPLE, _BINS = 1024, 64
# Signature bytes per row, at most; and the share of pairs at the threshold that a signature may reject.
_SIGNED, _MISSED = 320, 1e-4

# The multiplier of `kernels.read`: hashes here and in the compiled loops must be equal.
_PRIME = np.uint64(0x9E3779B97F4A7C15)
# Seed of datasketch's permutations. Sketches of two runs can be compared only with the same seed.
_SEED = 1


def bands_for(threshold: float) -> tuple[int, int]:
    """Return (bands, bins per band) for rows of which nothing is known."""
    return max(_proposals(threshold), key=lambda pair: (pair[0] * pair[1] <= 192, pair[1], pair[0]))


def choose_bands(rows: Rows, *, threshold: float, shingle: int, codes: Array, total: int | None = None) -> tuple[int, int]:
    """Return the (bands, bins per band) that cost the least for these rows.

    Args:
        rows: the texts.
        threshold: Jaccard similarity that must be found.
        shingle: code points in a shingle.
        codes: label number of each row, -1 for none; rows with different numbers are never candidates.
        total: number of all rows, if `rows` is an even sample of them.
    """
    n = len(rows) if total is None else total
    if n < FEW:
        return bands_for(threshold)
    alike, shares = _share_by_similarity(rows, shingle), np.bincount(codes + 1) / len(rows)
    # Only rows of one label can be candidates, so the pairs are those within labels.
    pairs, length = n * (n - 1) / 2 * float(shares @ shares), float(rows.sizes[:: max(1, len(rows) // _SAMPLE)].mean())

    def cost(pair: tuple[int, int]) -> float:
        """Estimate nanoseconds: equal keys and bins per band, one signature comparison and one text comparison per candidate.

        The constants are measured times; only their ratios matter for the choice.
        """
        bands, width = pair
        candidates = [min(1.0, bands * comb(same, width) / comb(_BINS, width)) * float(share) for same, share in enumerate(alike)]
        close = sum(chance * _passes(same / _BINS, threshold, pair) for same, chance in enumerate(candidates))
        return n * bands * (15 + 8 * width) + pairs * (sum(candidates) * 250 + close * 16 * length)

    # Beyond the rows of one process chance candidates outweigh wide bands, of which the recall needs many.
    wide = [(_bands_of(width, threshold), width) for width in range(6, 13)] if n > MANY and threshold < 1 else []
    return min([*_proposals(threshold), *wide], key=cost)


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
    if threshold >= 1:
        return [(1, 8)]
    pairs = np.array([(bands, width) for bands in range(1, _SIZES[-1] + 1) for width in range(1, _SIZES[-1] // bands + 1)])
    errors = _errors_of(pairs, threshold)
    found = set[tuple[int, int]]()
    for size in _SIZES:
        # Of equal errors the first counts, as in datasketch.
        bands, width = pairs[np.where(pairs.prod(axis=1) <= size, errors, np.inf).argmin()].tolist()
        found.add((bands, width))
    good = sorted(pair for pair in found if found_at(threshold, *pair) >= RECALL)
    if good:
        return good
    # Low thresholds: no proposal reaches the recall, so take narrow bands and as many as the recall needs.
    width = 1 if threshold < 0.5 else 2
    return [(_bands_of(width, threshold), width)]


def _errors_of(pairs: Array, threshold: float) -> Array:
    """Return the error of each (bands, bins per band): the areas of false positives and misses, weighted.

    Candidates are verified, so a miss weighs 499 times a false positive; datasketch, whose optimizer this is, weighs them equally. Its
    own function imports half of scipy for these integrals of polynomials, which a Gauss-Legendre rule of so many points gives exactly.
    """
    points, weights = np.polynomial.legendre.leggauss(_SIZES[-1] // 2 + 1)

    def area(low: float, high: float) -> Array:
        """Integrate the probability that a pair shares a band over its similarity."""
        similarities = low + (high - low) * (points + 1) / 2
        found = 1 - (1 - similarities ** pairs[:, 1:]) ** pairs[:, :1]
        return np.asarray(found @ weights * (high - low) / 2)

    return 0.002 * area(0.0, threshold) + 0.998 * (1 - threshold - area(threshold, 1.0))


def _bands_of(width: int, threshold: float) -> int:
    """Return the bands of this width that the recall needs."""
    return int(np.ceil(np.log(1 - RECALL) / np.log1p(-(threshold**width))))


def _share_by_similarity(rows: Rows, shingle: int) -> Array:
    """Return the share of a sample's pairs that have 0, 1, … of `_BINS` bins in common."""
    from curation.dedup.kernels.sketch import bin_values, count_shared

    sample = np.linspace(0, len(rows) - 1, _SAMPLE).astype(np.int64)
    values, found = np.empty((_SAMPLE, _BINS), np.uint32), np.zeros((_SAMPLE, _BINS + 1), np.int64)
    spread(bin_values, _SAMPLE, sample, rows.raw, shingle, values)
    spread(count_shared, _SAMPLE, values, found)
    totals = found.sum(axis=0)
    return np.asarray(totals / totals.sum())


def shingle_hashes(text: str, shingle: int) -> Array:
    """Return the set of a text's shingles as sorted 64-bit hashes; a text shorter than one shingle is one shingle."""
    codes = np.frombuffer(text.ljust(shingle, "\0").encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
    count = len(codes) - shingle + 1
    h = np.zeros(count, dtype=np.uint64)
    for place in range(shingle):
        h = h * _PRIME + codes[place : place + count]
    h = (h ^ (h >> np.uint64(33))) * np.uint64(0xFF51AFD7ED558CCD)
    h = (h ^ (h >> np.uint64(33))) * np.uint64(0xC4CEB9FE1A85EC53)
    return np.unique(h ^ (h >> np.uint64(33)))


def jaccard(a: Array, b: Array) -> float:
    """Return the exact Jaccard similarity of two sets from `shingle_hashes`."""
    shared = np.intersect1d(a, b, assume_unique=True).size
    return float(shared / (a.size + b.size - shared))


def sketches(texts: Texts, *, shingle: int, permutations: int, seed: int = _SEED) -> Array:
    """Return MinHash sketches that are bit for bit those of datasketch 2 (`affine32`) for the upper halves of the shingle hashes.

    Args:
        texts: the texts.
        shingle: code points in a shingle.
        permutations: values in a sketch.
        seed: seed of datasketch's permutations.

    Returns:
        (n, permutations) uint32.
    """
    from datasketch import MinHash

    from curation.dedup.kernels.sketch import minhash_rows

    multipliers, summands = (np.asarray(p, np.uint32) for p in MinHash(num_perm=permutations, seed=seed, scheme="affine32").permutations)
    rows = keyed_rows(texts).rows
    result = np.empty((len(rows), permutations), dtype=np.uint32)
    spread(minhash_rows, len(rows), np.arange(len(rows)), rows.raw, shingle, (multipliers, summands), result)
    return result


@dataclass(frozen=True)
class NearIndex:
    """An open LSH index."""

    lsh: Any
    """datasketch's `MinHashLSH`."""
    shingle: int
    """Code points in a shingle, for stored texts and queries alike."""
    bands: tuple[int, int]
    """(bands, values per band)."""


def open_index(url: str | None, *, threshold: float, shingle: int, name: str = "seedcorn") -> NearIndex:
    """Open the index in Redis, or a new one in this process.

    Args:
        url: redis://HOST:PORT/DB; None for an index in this process.
        threshold: least Jaccard similarity that must be found.
        shingle: code points in a shingle.
        name: prefix of the keys in Redis.

    Raises:
        ProjectError: no Redis answers, or the package `redis` is missing.
    """
    from datasketch import MinHashLSH

    bands = bands_for(threshold)
    config: dict[str, Any] = {"type": "dict"}
    if url is not None:
        config = {"type": "redis", "basename": f"{name}:{shingle}:{bands[0]}x{bands[1]}".encode(), "redis": _server(url)}
    lsh = MinHashLSH(num_perm=bands[0] * bands[1], params=bands, storage_config=config, prepickle=False)
    return NearIndex(lsh, shingle, bands)


def sketches_for(index: NearIndex, texts: Texts) -> Array:
    """Return sketches of the size that this index needs."""
    return sketches(texts, shingle=index.shingle, permutations=index.bands[0] * index.bands[1])


def add_sketches(index: NearIndex, keys: Sequence[bytes], values: Array) -> int:
    """Store rows under their keys; keys that exist are left unchanged.

    Args:
        index: an open index.
        keys: one key per row.
        values: sketches from `sketches_for`.

    Returns:
        The number of new keys.
    """
    new = [place for place, key in enumerate(keys) if key not in index.lsh]
    with index.lsh.insertion_session() as session:
        for place in new:
            session.insert(keys[place], _minhash(values[place]), check_duplication=False)
    return len(new)


def find_candidates(index: NearIndex, texts: Texts) -> list[list[bytes]]:
    """Return, for each text, the sorted keys of stored rows that may be near duplicates."""
    return [sorted(index.lsh.query(_minhash(values))) for values in sketches_for(index, texts)]


def candidate_pairs(new: Array, old: Array, *, bands: tuple[int, int]) -> list[tuple[int, int]]:
    """Find the rows of two sets that share a band, with datasketch's LSH in this process.

    Args:
        new: sketches (n, bands × bins) of the rows to look for.
        old: sketches (m, bands × bins) of the rows that exist.
        bands: (bands, bins in each), as for both sets of sketches.

    Returns:
        (place in `new`, place in `old`) of each pair, sorted. Pairs are candidates: compare their texts.
    """
    from datasketch import MinHashLSH

    lsh = MinHashLSH(num_perm=bands[0] * bands[1], params=bands)
    # The smaller set is stored: an insertion takes four times as long as a query (150 and 40 µs per row).
    swapped = len(new) > len(old)
    stored, queries = (old, new) if swapped else (new, old)
    for place, values in enumerate(stored):
        lsh.insert(place, _minhash(values), check_duplication=False)
    found = [(place, n) for n, values in enumerate(queries) for place in lsh.query(_minhash(values))]
    return sorted((n, place) if swapped else (place, n) for place, n in found)


def _minhash(values: Array) -> Any:
    from datasketch import LeanMinHash

    return LeanMinHash(seed=_SEED, hashvalues=np.asarray(values), scheme="affine32")


def _server(url: str) -> dict[str, Any]:
    parts = urlsplit(url)
    if parts.scheme not in ("redis", "rediss"):
        raise ProjectError("project.yaml: dedup.index", f"is {url!r}", "write redis://HOST:PORT/0, or remove the key")
    try:
        import redis
    except ImportError as error:
        raise ProjectError("project.yaml: dedup.index", "needs the package redis", "pip install 'seedcorn[redis]'") from error
    database = parts.path.strip("/") or "0"
    found: dict[str, Any] = {
        "host": parts.hostname or "127.0.0.1",
        "port": parts.port or 6379,
        "db": int(database) if database.isdigit() else 0,
    }
    found |= {"username": parts.username, "password": parts.password, "ssl": parts.scheme == "rediss"}
    try:
        # Checked when the index is opened, so that no later query fails in the middle of a run.
        redis.Redis(**found).ping()
    except redis.RedisError as error:
        address = f"{found['host']}:{found['port']}"
        raise ProjectError(
            "project.yaml: dedup.index", f"no Redis answers at {address} ({error})", "start Redis, or correct the address"
        ) from error
    return found
