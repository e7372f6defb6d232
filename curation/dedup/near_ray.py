"""Near copies past one machine: the same loops as Ray tasks over Parquet parts.

Each part is sketched where it lies and leaves only band keys, filed by (band, key prefix). One task a file finds the places that
share a key; one task a part fetches the texts of its candidate pairs, and no others, and compares them truly. What comes back
to the caller is pairs of numbers. Short rows of one label are not compared by edits here.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from curation.dedup.arrow_text import Array, Texts, arrow_texts, keyed_rows, read_by, read_rows
from curation.dedup.lsh_params import bands_for
from curation.dedup.near_pairs import FIRST, PAIRS, WHOLE, rethreshold
from curation.dedup.resolve import DROPS, keeping_order
from curation.errors import ProjectError

_GROUP = 1_000
"""Rows in a row group of a part: what is read to get at one text."""
_PREFIXES = 8
_KEYS = pa.schema({"key": pa.uint64(), "proof": pa.uint64(), "place": pa.int64()})


def find_near_on_ray(
    texts: Texts,
    *,
    address: str,
    threshold: float = 0.7,
    shingle: int = 5,
    labels: Sequence[str | None] | None = None,
    rank: Sequence[int] | None = None,
    work: Path | None = None,
    rows_a_part: int = 100_000,
) -> pa.Table:
    """What `find_near(…, edits=None)` gives, found by the workers of the Ray cluster at `address` ("local": this machine).

    Args:
        work: a folder that every worker can reach, for the parts and what the tasks leave; a temporary one when None.
    """
    n, order = len(texts), keeping_order(len(texts), rank)
    with tempfile.TemporaryDirectory(dir=work) as folder:
        column: Any = texts if isinstance(texts, pa.Array | pa.ChunkedArray) else arrow_texts(texts)
        parts = list[Path]()
        for start in range(0, n, rows_a_part):
            rows = pa.array(order[start : start + rows_a_part])
            told = pa.nulls(len(rows), pa.string()) if labels is None else pa.array(labels, pa.string()).take(rows)
            parts.append(Path(folder) / f"part-{len(parts):05d}.parquet")
            pq.write_table(pa.table({"text": column.take(rows), "label": told}), parts[-1], row_group_size=_GROUP)
        if not parts:
            return DROPS.empty_table()
        pairs = pairs_over_parquet(parts, address=address, threshold=threshold, shingle=shingle, work=Path(folder))
    named = [pa.array(order[pairs[name].to_numpy()]) for name in ("row", "twin")]
    return rethreshold(pairs.set_column(0, "row", named[0]).set_column(1, "twin", named[1]), threshold)


def near_over_parquet(parts: Sequence[Path], *, address: str, threshold: float = 0.7, shingle: int = 5, work: Path) -> pa.Table:
    """Near copies among the rows of Parquet parts with columns `text` and `label`, best rows first; a row is its place in them all."""
    return rethreshold(pairs_over_parquet(parts, address=address, threshold=threshold, shingle=shingle, work=work), threshold)


def pairs_over_parquet(parts: Sequence[Path], *, address: str, threshold: float, shingle: int, work: Path) -> pa.Table:
    """The near pairs of these parts with their true similarity (as `find_near_pairs` gives them), by places."""
    starts = np.concatenate([[0], np.cumsum([pq.read_metadata(part).num_rows for part in parts])])
    bands = bands_for(threshold)
    with _Cluster(address) as run:
        sketch = partial(_sketch_part, shingle=shingle, bands=bands, work=work)
        keys = run(sketch, [(part, int(start)) for part, start in zip(parts, starts[:-1], strict=True)])
        exact = run(partial(_equal_places, keys), [(prefix,) for prefix in range(_PREFIXES)])
        copies = np.concatenate(exact) if exact else np.empty((0, 2), np.int64)
        np.save(work / "copies.npy", np.sort(copies[:, 0]))
        found = run(
            partial(_shared_places, keys, starts, work), [(band, prefix) for band in range(1, bands[0] + 1) for prefix in range(_PREFIXES)]
        )
        compare = partial(_compare_part, parts, starts, found, shingle=shingle, floor=threshold)
        near = run(compare, [(place,) for place in range(len(parts))])
    scored = np.concatenate([np.empty((0, 3)), *near])
    rows = np.concatenate([scored[:, 0].astype(np.int64), copies[:, 0]])
    twins = np.concatenate([scored[:, 1].astype(np.int64), copies[:, 1]])
    measure = pa.array(["jaccard"] * len(scored) + ["exact"] * len(copies), pa.string())
    columns = [pa.array(rows), pa.array(twins), pa.array(np.concatenate([scored[:, 2], np.ones(len(copies))])), measure, pa.array(rows)]
    pairs = pa.table(columns, schema=PAIRS).take(pa.array(np.lexsort((twins, rows))))
    return pairs.replace_schema_metadata({"rows": str(starts[-1]), "floor": str(threshold)})


class _Cluster:
    """A connection to Ray; called with a function and the arguments of each task, it gives the results in order."""

    def __init__(self, address: str) -> None:
        self.address = address

    def __enter__(self) -> Callable[[Callable[..., Any], list[tuple[Any, ...]]], list[Any]]:
        try:
            import ray
        except ImportError as error:
            raise ProjectError("--ray", "needs the package ray", "pip install 'seedcorn[ray]'") from error
        try:
            ray.init(address=None if self.address == "local" else self.address, log_to_driver=False, include_dashboard=False)
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise ProjectError(f"--ray {self.address}", f"no cluster answers ({error})", "ray start --head, then --ray auto") from error
        task = ray.remote(_call)
        return lambda function, tasks: ray.get([task.remote(function, *arguments) for arguments in tasks])

    def __exit__(self, *_: object) -> None:
        import ray

        ray.shutdown()


def _call(function: Callable[..., Any], *arguments: Any) -> Any:
    return function(*arguments)


def _sketch_part(part: Path, start: int, *, shingle: int, bands: tuple[int, int], work: Path) -> Path:
    """Write the keys of a part: a row group for each (band, prefix), band 0 being the whole text."""
    from curation.dedup.kernels.sketch import band_keys

    table = pq.read_table(part, columns=["text", "label"], use_threads=False)
    n = table.num_rows
    keys, counts = np.empty((bands[0], n), np.uint32), np.empty(n, np.int64)
    salts = _label_salts(table["label"])
    keyed = read_by(band_keys, read_rows(table["text"]), shingle, bands, salts, keys, counts, np.empty((n, 0), np.uint8))
    target = work / f"keys-{start:012d}.parquet"
    with pq.ParquetWriter(target, _KEYS) as writer:
        for band in range(bands[0] + 1):
            values = keyed.keys ^ salts if band == 0 else keys[band - 1].astype(np.uint64) << np.uint64(32)
            proof = keyed.lengths.astype(np.uint64) << np.uint64(32) | keys[0] if band == 0 else np.zeros(n, np.uint64)
            prefix = (values >> np.uint64(56)).astype(np.int64) * _PREFIXES // 256
            for wanted in range(_PREFIXES):
                # Empty texts have no shingles: they are equal to one another and near to nothing.
                rows = np.flatnonzero((prefix == wanted) & ((keyed.lengths > 0) | (band == 0)))
                writer.write_table(
                    pa.table([pa.array(v) for v in (values[rows], proof[rows], start + rows)], schema=_KEYS), row_group_size=2**31
                )
    return target


def _equal_places(keys: Sequence[Path], prefix: int) -> Array:
    """(place, first place of its text) of every row that has an equal one before it."""
    table = _group_of(keys, prefix)
    values = np.stack([table["key"].to_numpy(), table["proof"].to_numpy()], axis=1)
    places = table["place"].to_numpy()
    _, inverse = np.unique(values, axis=0, return_inverse=True)
    first = np.full(len(places), np.iinfo(np.int64).max)
    np.minimum.at(first, inverse.ravel(), places)
    first = first[inverse.ravel()] if len(places) else first
    return np.asarray(np.stack([places, first], axis=1)[places != first])


def _shared_places(keys: Sequence[Path], starts: Array, work: Path, band: int, prefix: int) -> Path:
    """Write the candidate pairs of one file of keys, a row group for each part that the later row of the pair lies in."""
    from curation.dedup.kernels.runs import pairs_in_runs

    table, copies = _group_of(keys, band * _PREFIXES + prefix), np.load(work / "copies.npy", mmap_mode="r")
    places = table["place"].to_numpy()
    stays = ~np.isin(places, copies)
    places, values = places[stays], table["key"].to_numpy()[stays]
    order = np.lexsort((places, values))
    packed = (values[order] >> np.uint64(32) << np.uint64(32)) | np.arange(len(order), dtype=np.uint64)
    out = np.empty(pairs_in_runs(packed, WHOLE, FIRST, packed, False)[0], np.uint64)
    pairs_in_runs(packed, WHOLE, FIRST, out, True)
    later, earlier = places[order[(out >> np.uint64(32)).astype(np.int64)]], places[order[(out & np.uint64(0xFFFFFFFF)).astype(np.int64)]]
    part = np.searchsorted(starts, later, side="right") - 1
    target, schema = work / f"pairs-{band:03d}-{prefix}.parquet", pa.schema({"later": pa.int64(), "earlier": pa.int64()})
    with pq.ParquetWriter(target, schema) as writer:
        for wanted in range(len(starts) - 1):
            mine = part == wanted
            writer.write_table(pa.table([pa.array(later[mine]), pa.array(earlier[mine])], schema=schema), row_group_size=2**31)
    return target


def _compare_part(parts: Sequence[Path], starts: Array, found: Sequence[Path], part: int, *, shingle: int, floor: float) -> Array:
    """(later, earlier, similarity) of the near pairs whose later row lies in this part."""
    from curation.dedup.kernels.compare import compare_pairs

    table = _group_of(found, part)
    pairs = np.unique(np.stack([table["later"].to_numpy(), table["earlier"].to_numpy()], axis=1), axis=0)
    if not len(pairs):
        return np.empty((0, 3))
    places = np.unique(pairs)
    rows = keyed_rows(_texts_at(parts, starts, places)).rows
    local, which, scores = np.searchsorted(places, pairs), np.arange(len(places)), np.empty(len(pairs))
    counts = np.maximum(rows.sizes, 1) * 2  # an upper bound is all that the comparison needs
    unknown = np.empty((len(places), 0), np.uint64), 0
    compare_pairs(0, len(local), local, which, counts, rows.arguments, shingle, floor, unknown, scores)
    return np.column_stack([pairs, scores])[scores >= 0]


def _texts_at(parts: Sequence[Path], starts: Array, places: Array) -> pa.ChunkedArray:
    """The texts at some places, from the row groups that hold them."""
    chunks = list[pa.Array]()
    for number in np.unique(np.searchsorted(starts, places, side="right") - 1).tolist():
        mine = places[(places >= starts[number]) & (places < starts[number + 1])] - starts[number]
        file = pq.ParquetFile(parts[number])
        sizes = [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
        begins = np.concatenate([[0], np.cumsum(sizes)])
        groups = np.searchsorted(begins, mine, side="right") - 1
        for group in np.unique(groups).tolist():
            texts = file.read_row_group(group, columns=["text"], use_threads=False)["text"]
            chunks += texts.take(pa.array(mine[groups == group] - begins[group])).cast(pa.large_binary()).chunks
    return pa.chunked_array(chunks, pa.large_binary())


def _group_of(files: Sequence[Path], group: int) -> pa.Table:
    return pa.concat_tables([pq.ParquetFile(file).read_row_group(group, use_threads=False) for file in files])


def _label_salts(labels: pa.ChunkedArray) -> Array:
    """A 64-bit number for each label, the same on every machine."""
    import hashlib

    whole = labels.combine_chunks().dictionary_encode()
    names = whole.dictionary.to_pylist()
    numbers = np.array([int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest()) for name in names] + [0], np.uint64)
    return numbers[np.asarray(whole.indices.fill_null(len(names))).astype(np.int64)]
