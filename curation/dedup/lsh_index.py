"""Sketches that outlast a run: datasketch's own LSH, in this process or in Redis, fed with sketches in datasketch's scheme.

A team that shares a Redis checks new rows against what others have released without having their texts at hand for the
search; only the candidates' texts are fetched, and they are compared truly. Keys are bytes, so nothing is ever unpickled.
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

_PRIME = np.uint64(0x9E3779B97F4A7C15)

_SEED = 1


def shingle_hashes(text: str, shingle: int) -> Array:
    """The set of a text's shingles as sorted 64-bit hashes; a text shorter than one shingle is one shingle."""
    return np.unique(_mix(_rolling(_codes(text.ljust(shingle, "\0")), shingle)))


def jaccard(a: Array, b: Array) -> float:
    """Shared over all, exactly, of two sets from `shingle_hashes`."""
    shared = np.intersect1d(a, b, assume_unique=True).size
    return float(shared / (a.size + b.size - shared))


def sketches(texts: Texts, *, shingle: int, permutations: int, seed: int = _SEED) -> Array:
    """(n, permutations) uint32: bit for bit what datasketch 2 (`affine32`) gives for the upper halves of the shingle hashes."""
    from datasketch import MinHash

    from curation.dedup.kernels.sketch import minhash_rows

    a, b = (np.asarray(p, dtype=np.uint32) for p in MinHash(num_perm=permutations, seed=seed, scheme="affine32").permutations)
    rows = keyed_rows(texts).rows
    result = np.empty((len(rows), permutations), dtype=np.uint32)
    spread(minhash_rows, len(rows), np.arange(len(rows)), *rows.arguments, shingle, a, b, result)
    return result


def _codes(text: str) -> Array:
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)


def _rolling(codes: Array, shingle: int) -> Array:
    count = len(codes) - shingle + 1
    hashes = np.zeros(count, dtype=np.uint64)
    for place in range(shingle):
        hashes = hashes * _PRIME + codes[place : place + count]
    return hashes


def _mix(h: Array) -> Array:
    h = (h ^ (h >> np.uint64(33))) * np.uint64(0xFF51AFD7ED558CCD)
    h = (h ^ (h >> np.uint64(33))) * np.uint64(0xC4CEB9FE1A85EC53)
    return np.asarray(h ^ (h >> np.uint64(33)))


@dataclass(frozen=True)
class NearIndex:
    """An open LSH; texts put in and asked for are cut into shingles of the same length."""

    lsh: Any
    shingle: int
    bands: tuple[int, int]


def open_index(url: str | None, *, threshold: float, shingle: int, name: str = "seedcorn") -> NearIndex:
    """Open the index at redis://HOST:PORT/DB, or a new one in this process where there is no url.

    Raises:
        ProjectError: no such server, or the package `redis` is missing.
    """
    from datasketch import MinHashLSH

    bands = bands_for(threshold)
    config: dict[str, Any] = {"type": "dict"}
    if url is not None:
        config = {"type": "redis", "basename": f"{name}:{shingle}:{bands[0]}x{bands[1]}".encode(), "redis": _server(url)}
    lsh = MinHashLSH(num_perm=bands[0] * bands[1], params=bands, storage_config=config, prepickle=False)
    return NearIndex(lsh, shingle, bands)


def sketches_for(index: NearIndex, texts: Texts) -> Array:
    """Sketches that fit this index."""
    return sketches(texts, shingle=index.shingle, permutations=index.bands[0] * index.bands[1])


def add_sketches(index: NearIndex, keys: Sequence[bytes], values: Array) -> int:
    """Put rows in under their keys; those already there stay. Returns how many were new."""
    new = [place for place, key in enumerate(keys) if key not in index.lsh]
    with index.lsh.insertion_session() as session:
        for place in new:
            session.insert(keys[place], _minhash(values[place]), check_duplication=False)
    return len(new)


def find_candidates(index: NearIndex, texts: Texts) -> list[list[bytes]]:
    """For each text the keys of rows that may be near to it, in order."""
    return [sorted(index.lsh.query(_minhash(values))) for values in sketches_for(index, texts)]


def candidate_pairs(new: Array, old: Array, *, bands: tuple[int, int]) -> list[tuple[int, int]]:
    """Find the rows of two sets that share a band, with datasketch's LSH in this process.

    The smaller set is put in and the larger one asked for, since an insertion takes four times as long as a query (150 and 40 µs a row).

    Args:
        new: sketches (n, bands × bins) of the rows to look for.
        old: sketches (m, bands × bins) of the rows that exist.
        bands: (bands, bins in each), as for both sets of sketches.

    Returns:
        (place in `new`, place in `old`) of each pair, sorted. Pairs are candidates: compare their texts.
    """
    from datasketch import MinHashLSH

    lsh = MinHashLSH(num_perm=bands[0] * bands[1], params=bands)
    swapped = len(new) > len(old)
    kept, asked = (old, new) if swapped else (new, old)
    for place, values in enumerate(kept):
        lsh.insert(place, _minhash(values), check_duplication=False)
    found = [(place, n) for n, values in enumerate(asked) for place in lsh.query(_minhash(values))]
    return sorted((n, place) if swapped else (place, n) for place, n in found)


def _minhash(values: Array) -> Any:
    from datasketch import LeanMinHash

    return LeanMinHash(seed=1, hashvalues=np.asarray(values), scheme="affine32")


def _server(url: str) -> dict[str, Any]:
    parts = urlsplit(url)
    if parts.scheme not in ("redis", "rediss"):
        raise ProjectError("project.yaml: dedup.index", f"is {url!r}", "write redis://HOST:PORT/0, or leave it out")
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
            "project.yaml: dedup.index", f"no Redis answers at {address} ({error})", "start it, or mend the address"
        ) from error
    return found
