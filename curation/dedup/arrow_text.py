"""Texts as the compiled loops read them: where each row's bytes are, without a Python object per row and without a copy."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa

from curation.dedup.normalization import folding_table, normalize

Array = np.ndarray[Any, np.dtype[Any]]
Texts: TypeAlias = "Sequence[str | None] | pa.Array | pa.ChunkedArray"

_BLOCKS = 8
"""Ranges per thread: enough that one thread with the long rows does not hold up the others."""


@dataclass(frozen=True)
class Rows:
    """One entry per text; `owners` keeps the memory alive that the addresses point into."""

    addresses: Array
    sizes: Array
    is_normal: Array
    """Python has normalized the row; its bytes are read as they stand."""
    owners: tuple[Any, ...]

    def __len__(self) -> int:
        return len(self.sizes)

    @property
    def arguments(self) -> tuple[Array, ...]:
        """What every loop takes: addresses, sizes, is_normal and the two folding tables."""
        return self.addresses, self.sizes, self.is_normal, *folding_table()


@dataclass(frozen=True)
class Keyed:
    """Rows with a hash of each normalized text and its number of code points."""

    rows: Rows
    keys: Array
    lengths: Array


def read_rows(texts: Texts) -> Rows:
    """Rows of a list of str or an Arrow string array; null reads as the empty text, lone surrogates as they stand."""
    given = texts.chunks if isinstance(texts, pa.ChunkedArray) else [texts if isinstance(texts, pa.Array) else arrow_texts(texts)]
    chunks = [_plain(chunk) for chunk in given]
    parts = [_chunk_rows(chunk) for chunk in chunks if len(chunk)]
    addresses = np.concatenate([a for a, _ in parts]) if parts else np.empty(0, np.int64)
    sizes = np.concatenate([s for _, s in parts]) if parts else np.empty(0, np.int64)
    return Rows(addresses, sizes, np.zeros(len(sizes), np.bool_), tuple(chunks))


def keyed_rows(texts: Texts) -> Keyed:
    """Read, normalize and hash every row."""
    from curation.dedup.kernels.sketch import exact_keys

    return read_by(exact_keys, read_rows(texts))


def read_by(kernel: Callable[..., Any], rows: Rows, *more: Any) -> Keyed:
    """Run a loop that fills keys and lengths; rows whose marks may combine are normalized by Python and read again."""
    keys, lengths = np.zeros(len(rows), np.uint64), np.zeros(len(rows), np.int64)
    spread(kernel, len(rows), np.arange(len(rows)), *rows.arguments, keys, lengths, *more)
    rest = np.flatnonzero(lengths < 0)
    if len(rest):
        rows = _normalized(rows, rest)
        spread(kernel, len(rest), rest, *rows.arguments, keys, lengths, *more)
    return Keyed(rows, keys, lengths)


def is_compiled() -> bool:
    """Whether the loops lie compiled on this machine; where not, the first run takes some seconds more."""
    own = Path(os.environ.get("NUMBA_CACHE_DIR") or Path(__file__).parent / "kernels")
    return any(own.glob("**/keep.keep_best*.nbi"))


def text_of(rows: Rows, row: int) -> str:
    """The text of one row, as it was given or, where Python normalized it, normalized."""
    return _bytes_of(rows, row).decode("utf-8", "surrogatepass")


def spread(kernel: Callable[..., Any], n: int, *arguments: Any) -> None:
    """Run kernel(start, stop, …) over all of range(n), on every core that this process may use."""
    threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    blocks = min(n, threads * _BLOCKS)
    if threads == 1 or n < 64:
        kernel(0, n, *arguments)
        return
    cuts = np.linspace(0, n, blocks + 1).astype(np.int64).tolist()
    with ThreadPoolExecutor(threads) as pool:
        for done in [pool.submit(kernel, start, stop, *arguments) for start, stop in pairwise(cuts)]:
            done.result()


def _normalized(rows: Rows, which: Array) -> Rows:
    bodies = [normalize(text_of(rows, row)).encode("utf-8", "surrogatepass") for row in which.tolist()]
    beside = np.frombuffer(b"".join(bodies) or b"\0", np.uint8)
    addresses, sizes, is_normal = rows.addresses.copy(), rows.sizes.copy(), rows.is_normal.copy()
    sizes[which] = [len(body) for body in bodies]
    addresses[which] = beside.ctypes.data + np.cumsum(sizes[which]) - sizes[which]
    is_normal[which] = True
    return replace(rows, addresses=addresses, sizes=sizes, is_normal=is_normal, owners=(*rows.owners, beside))


def _bytes_of(rows: Rows, row: int) -> bytes:
    import ctypes

    return ctypes.string_at(int(rows.addresses[row]), int(rows.sizes[row]))


def arrow_texts(texts: Sequence[str | None]) -> pa.Array:
    """A list of str as an Arrow array; of bytes where a lone surrogate stands in it."""
    try:
        return pa.array(texts, pa.large_string())
    except UnicodeEncodeError:  # a lone surrogate, which UTF-8 proper has no place for
        return pa.array([None if text is None else text.encode("utf-8", "surrogatepass") for text in texts], pa.large_binary())


def _plain(chunk: pa.Array) -> pa.Array:
    kind = chunk.type
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        return chunk
    if not (pa.types.is_null(kind) or pa.types.is_dictionary(kind) or pa.types.is_string_view(kind)):
        raise TypeError(f"texts are {kind}; they must be strings")
    return chunk.cast(pa.large_string())


def _chunk_rows(chunk: pa.Array) -> tuple[Array, Array]:
    wide = pa.types.is_large_string(chunk.type) or pa.types.is_large_binary(chunk.type)
    _, offsets, data = chunk.buffers()
    ends = np.frombuffer(offsets, np.int64 if wide else np.int32)[chunk.offset : chunk.offset + len(chunk) + 1].astype(np.int64)
    sizes = np.diff(ends)
    if chunk.null_count:
        sizes[np.asarray(chunk.is_null())] = 0
    return (data.address if data else 0) + ends[:-1], sizes
