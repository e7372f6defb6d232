"""A persistent LSH index for near duplicates across snapshots: datasketch's `MinHashLSH`, in this process or in Redis.

A team that shares a Redis compares new rows with the released rows of other projects without holding their texts; only the texts of
candidates are read, and they are compared exactly. Keys are bytes and `prepickle` is off, so nothing is ever unpickled.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from curation.dedup.arrow_text import Array, Texts, keyed_rows, spread
from curation.dedup.lsh_params import bands_for
from curation.errors import ProjectError

# The multiplier of `kernels.read`: hashes here and in the compiled loops must be equal.
_PRIME = np.uint64(0x9E3779B97F4A7C15)
# Seed of datasketch's permutations. Sketches of two runs can be compared only with the same seed.
_SEED = 1


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
        redis.Redis(**found).ping()
    except redis.RedisError as error:
        address = f"{found['host']}:{found['port']}"
        raise ProjectError(
            "project.yaml: dedup.index", f"no Redis answers at {address} ({error})", "start Redis, or correct the address"
        ) from error
    return found
