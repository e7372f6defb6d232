"""Find all near pairs with their exact similarity, on one machine or several, so that a threshold can change without reading a text again.

On several machines the same loops run as Ray tasks over Parquet parts. Each part is sketched on the worker that reads it, which writes only
band keys, grouped by (band, key prefix). One task per group finds the places that share a key; one task per part reads the texts of its
candidate pairs, and no others, and compares them exactly. Only pairs of numbers return to the caller. Short rows with the same label are
not compared by edits here.
"""

from __future__ import annotations

import hashlib
import itertools
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from curation.dedup.arrow_text import Array, Texts, arrow_texts, keyed_rows, read_by, read_rows, spread
from curation.dedup.lsh import bands_for
from curation.dedup.near import LIMIT, BandSketch, Places, read_firsts, roots_of, sorted_bands
from curation.dedup.resolve import DROPS, MEASURES, Decided, drop_table, order_by_rank
from curation.errors import ProjectError

PAIRS = pa.schema({"row": pa.int64(), "twin": pa.int64(), "similarity": pa.float64(), "measure": pa.string(), "place": pa.int64()})
"""`twin` comes before `row` when rows are ordered best first; `place` is the row's place in that order, by which lines are sorted."""

# Rows that share a band up to which every pair is a candidate; in a larger group each row is paired with the first FIRST rows.
WHOLE, FIRST = 256, 64
_LOW = np.uint64(0xFFFFFFFF)

# Rows in a row group of a part: the rows that are read to get one text.
_GROUP = 1_000
# Groups that the keys of a band are split into, one task each.
_PREFIXES = 8
_KEYS = pa.schema({"key": pa.uint64(), "proof": pa.uint64(), "place": pa.int64()})


def find_clusters(texts: Texts, *, threshold: float = 0.7, shingle: int = 5) -> Array:
    """Return, for each row, the smallest row of its cluster.

    Dedup needs only pairs with a kept row. Here every pair counts, including pairs of rows that dedup drops.

    Args:
        texts: the texts.
        threshold: least Jaccard similarity of a pair.
        shingle: code points in a shingle.
    """
    from curation.dedup.kernels.keep import join_buckets

    firsts = read_firsts(texts, threshold=threshold, shingle=shingle)
    which, n = firsts.places.which, len(texts)
    parent = np.arange(len(which))
    for packed in sorted_bands(firsts.keys, which):
        members = np.bincount((packed & _LOW).astype(np.int64), minlength=len(which))
        join_buckets(packed, np.concatenate([[0], np.cumsum(members)]), firsts.places, LIMIT, parent)
    root = np.arange(n)
    root[which] = which[roots_of(parent)]
    root = root[firsts.first]
    smallest = np.arange(n)
    np.minimum.at(smallest, root, np.arange(n))
    return np.asarray(smallest[root])


def find_near_pairs(
    texts: Texts,
    *,
    floor: float = 0.5,
    shingle: int = 5,
    labels: Sequence[str | None] | pa.Array | None = None,
    rank: Sequence[int] | None = None,
) -> pa.Table:
    """Find every pair of texts whose Jaccard similarity is at least `floor`; equal texts are paired with the first of them.

    Where more than 256 rows share a band, each is compared with the first 64 only. The table's metadata counts such rows
    (`crowded`); for them a higher threshold may keep a row that `find_near` would drop.

    Args:
        texts: the texts.
        floor: least Jaccard similarity of a pair.
        shingle: code points in a shingle.
        labels: class of each row; rows with different labels are never paired.
        rank: lower comes first; ties by position.

    Returns:
        One line per pair: row, twin, similarity, measure ("exact" or "jaccard"), place.
    """
    from curation.dedup.kernels.compare import compare_pairs
    from curation.dedup.kernels.sketch import pairs_in_runs

    firsts = read_firsts(texts, threshold=floor, shingle=shingle, labels=labels, rank=rank)
    which = firsts.places.which
    # (later place, earlier place) of each pair that shares a band. The first call of the loop only counts, to size the array.
    parts, crowded = [np.empty(0, np.uint64)], 0
    for packed in sorted_bands(firsts.keys, which):
        count, in_crowds = pairs_in_runs(packed, WHOLE, FIRST, packed, False)
        parts.append(np.empty(count, np.uint64))
        pairs_in_runs(packed, WHOLE, FIRST, parts[-1], True)
        parts[-1], crowded = np.unique(parts[-1]), max(crowded, in_crowds)
    merged = np.unique(np.concatenate(parts))
    pairs = np.stack([merged >> np.uint64(32), merged & _LOW], axis=1).astype(np.int64)
    scores = np.empty(len(pairs))
    spread(compare_pairs, len(pairs), pairs, firsts.places, scores)
    pairs, scores = pairs[scores >= 0], scores[scores >= 0]
    place = np.empty(len(firsts.first), np.int64)
    place[firsts.order] = np.arange(len(place))
    equal = np.flatnonzero(firsts.first != np.arange(len(place)))
    rows = np.concatenate([which[pairs[:, 0]], equal])
    twins = np.concatenate([which[pairs[:, 1]], firsts.first[equal]])
    measure = np.repeat([MEASURES.index("jaccard"), MEASURES.index("exact")], [len(pairs), len(equal)])
    names = pa.DictionaryArray.from_arrays(pa.array(measure), pa.array(MEASURES)).cast(pa.string())
    columns = [rows, twins, np.concatenate([scores, np.ones(len(equal))]), names, place[rows]]
    table = pa.table([pa.array(column) for column in columns], schema=PAIRS)
    metadata = {"floor": str(floor), "rows": str(len(place)), "crowded": str(crowded)}
    return table.take(pa.array(np.lexsort((place[twins], place[rows])))).replace_schema_metadata(metadata)


def rethreshold(pairs: pa.Table, threshold: float) -> pa.Table:
    """Decide from measured pairs which rows are dropped at a threshold, as `find_near` would.

    Raises:
        ValueError: the threshold is below the floor of the pairs.
    """
    metadata = pairs.schema.metadata or {}
    if threshold < float(metadata.get(b"floor", b"0")):
        raise ValueError(f"threshold {threshold} is below {metadata[b'floor'].decode()}, the least similarity these pairs were measured at")
    n = int(metadata.get(b"rows", b"0")) or 1 + max(pairs["row"].to_pylist() + pairs["twin"].to_pylist(), default=-1)
    first, kept, similarity, parent = np.arange(n), np.arange(n), np.ones(n), list(range(n))
    is_exact = pairs["measure"].to_numpy(zero_copy_only=False) == "exact"
    exact, lines = pairs.filter(pa.array(is_exact)), pairs.filter(pa.array(~is_exact & (pairs["similarity"].to_numpy() >= threshold)))
    first[exact["row"].to_numpy()] = exact["twin"].to_numpy()

    def root(row: int) -> int:
        while parent[row] != row:
            parent[row] = parent[parent[row]]
            row = parent[row]
        return row

    columns = zip(*(lines[name].to_pylist() for name in ("row", "twin", "similarity")), strict=True)
    for row, group in itertools.groupby(columns, key=lambda line: line[0]):
        rivals = [(twin, score) for _, twin, score in group if kept[twin] == twin]
        if rivals:
            # Of equally similar rows max takes the first, which is the best ranked.
            kept[row], similarity[row] = max(rivals, key=lambda pair: pair[1])
            for twin, _ in rivals:
                low, high = sorted((root(row), root(twin)))
                parent[high] = low
    roots = np.array([root(row) for row in range(n)], np.int64)
    measure = np.full(n, MEASURES.index("jaccard"), np.int8)
    return drop_table(first, Decided(np.arange(n), kept, similarity, measure, roots))


def find_near_on_ray(
    texts: Texts,
    *,
    address: str,
    threshold: float = 0.7,
    shingle: int = 5,
    labels: Sequence[str | None] | None = None,
    rank: Sequence[int] | None = None,
    work: Path | None = None,
    rows_per_part: int = 100_000,
) -> pa.Table:
    """Return the result of `find_near(…, edits=None)`, computed by the workers of a Ray cluster.

    Args:
        texts: the texts.
        address: address of the cluster; "local" for this machine.
        threshold: least Jaccard similarity of a duplicate.
        shingle: code points in a shingle.
        labels: class of each row.
        rank: lower is kept; ties by position.
        work: folder that every worker can reach, for the parts and intermediate files; a temporary one when None.
        rows_per_part: rows in a Parquet part.

    Raises:
        ProjectError: Ray is not installed, or no cluster answers.
    """
    n, order = len(texts), order_by_rank(len(texts), rank)
    with tempfile.TemporaryDirectory(dir=work) as folder:
        column: Any = texts if isinstance(texts, pa.Array | pa.ChunkedArray) else arrow_texts(texts)
        parts = list[Path]()
        for start in range(0, n, rows_per_part):
            rows = pa.array(order[start : start + rows_per_part])
            own = pa.nulls(len(rows), pa.string()) if labels is None else pa.array(labels, pa.string()).take(rows)
            parts.append(Path(folder) / f"part-{len(parts):05d}.parquet")
            pq.write_table(pa.table({"text": column.take(rows), "label": own}), parts[-1], row_group_size=_GROUP)
        if not parts:
            return DROPS.empty_table()
        pairs = pairs_over_parquet(parts, address=address, threshold=threshold, shingle=shingle, work=Path(folder))
    # The parts were written best first, so a place is an index into `order`.
    named = [pa.array(order[pairs[name].to_numpy()]) for name in ("row", "twin")]
    return rethreshold(pairs.set_column(0, "row", named[0]).set_column(1, "twin", named[1]), threshold)


def pairs_over_parquet(parts: Sequence[Path], *, address: str, threshold: float, shingle: int, work: Path) -> pa.Table:
    """Find the near pairs of these parts with their exact similarity, as `find_near_pairs` does.

    Args:
        parts: Parquet files, best rows first.
        address: address of the Ray cluster.
        threshold: least Jaccard similarity of a pair.
        shingle: code points in a shingle.
        work: folder that every worker can reach.
    """
    starts = np.concatenate([[0], np.cumsum([pq.read_metadata(part).num_rows for part in parts])])
    bands = bands_for(threshold)
    with _connect(address) as run:
        sketch = partial(_sketch_part, shingle=shingle, bands=bands, work=work)
        keys = run(sketch, [(part, int(start)) for part, start in zip(parts, starts[:-1], strict=True)])
        exact = run(partial(_equal_places, keys), [(prefix,) for prefix in range(_PREFIXES)])
        equal = np.concatenate(exact) if exact else np.empty((0, 2), np.int64)
        # A file, which workers map into memory: an argument would be copied to every task.
        np.save(work / "equal.npy", np.sort(equal[:, 0]))
        found = run(
            partial(_shared_places, keys, starts, work), [(band, prefix) for band in range(1, bands[0] + 1) for prefix in range(_PREFIXES)]
        )
        compare = partial(_compare_part, parts, starts, found, shingle=shingle, floor=threshold)
        near = run(compare, [(place,) for place in range(len(parts))])
    # Equal rows were paired by their hash and are not compared again.
    scored = np.concatenate([np.empty((0, 3)), *near])
    rows = np.concatenate([scored[:, 0].astype(np.int64), equal[:, 0]])
    twins = np.concatenate([scored[:, 1].astype(np.int64), equal[:, 1]])
    measure = pa.array(["jaccard"] * len(scored) + ["exact"] * len(equal), pa.string())
    columns = [pa.array(rows), pa.array(twins), pa.array(np.concatenate([scored[:, 2], np.ones(len(equal))])), measure, pa.array(rows)]
    pairs = pa.table(columns, schema=PAIRS).take(pa.array(np.lexsort((twins, rows))))
    return pairs.replace_schema_metadata({"rows": str(starts[-1]), "floor": str(threshold)})


@contextmanager
def _connect(address: str) -> Iterator[Callable[[Callable[..., Any], list[tuple[Any, ...]]], list[Any]]]:
    """Connect to Ray; yields run(function, [arguments of each task]) -> results in order."""
    try:
        import ray
    except ImportError as error:
        raise ProjectError("--ray", "needs the package ray", "pip install 'seedcorn[ray]'") from error
    try:
        ray.init(address=None if address == "local" else address, log_to_driver=False, include_dashboard=False)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise ProjectError(f"--ray {address}", f"no cluster answers ({error})", "ray start --head, then --ray auto") from error
    # One remote function that calls any other: a part's task is a partial, which ray.remote does not accept.
    task = ray.remote(_call)
    try:
        yield lambda function, tasks: ray.get([task.remote(function, *arguments) for arguments in tasks])
    finally:
        ray.shutdown()


def _call(function: Callable[..., Any], *arguments: Any) -> Any:
    return function(*arguments)


def _sketch_part(part: Path, start: int, *, shingle: int, bands: tuple[int, int], work: Path) -> Path:
    """Write the keys of a part, one row group for each (band, prefix); band 0 is the hash of the whole text."""
    from curation.dedup.kernels.sketch import band_keys

    table = pq.read_table(part, columns=["text", "label"], use_threads=False)
    n = table.num_rows
    keys, counts = np.empty((bands[0], n), np.uint32), np.empty(n, np.int64)
    # A 64-bit number for each label: a hash, so that it is the same on every machine.
    labels = table["label"].combine_chunks().dictionary_encode()
    names = labels.dictionary.to_pylist()
    numbers = np.array([int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest()) for name in names] + [0], np.uint64)
    salts = numbers[np.asarray(labels.indices.fill_null(len(names))).astype(np.int64)]
    # No signatures: the worker that compares a pair has only the texts.
    keyed = read_by(band_keys, read_rows(table["text"]), BandSketch(shingle, bands, salts, keys, counts, np.empty((n, 0), np.uint8)))
    target = work / f"keys-{start:012d}.parquet"
    with pq.ParquetWriter(target, _KEYS) as writer:
        for band in range(bands[0] + 1):
            values = keyed.keys ^ salts if band == 0 else keys[band - 1].astype(np.uint64) << np.uint64(32)
            proof = keyed.lengths.astype(np.uint64) << np.uint64(32) | keys[0] if band == 0 else np.zeros(n, np.uint64)
            prefix = (values >> np.uint64(56)).astype(np.int64) * _PREFIXES // 256
            for wanted in range(_PREFIXES):
                # Empty texts have no shingles: they are equal to one another and near nothing else.
                rows = np.flatnonzero((prefix == wanted) & ((keyed.lengths > 0) | (band == 0)))
                # One row group, whatever its size: readers find a group by its number.
                writer.write_table(
                    pa.table([pa.array(v) for v in (values[rows], proof[rows], start + rows)], schema=_KEYS), row_group_size=2**31
                )
    return target


def _equal_places(keys: Sequence[Path], prefix: int) -> Array:
    """Return (place, first place of its text) of every row that has an equal one before it."""
    table = _group_of(keys, prefix)
    values = np.stack([table["key"].to_numpy(), table["proof"].to_numpy()], axis=1)
    places = table["place"].to_numpy()
    _, inverse = np.unique(values, axis=0, return_inverse=True)
    first = np.full(len(places), np.iinfo(np.int64).max)
    np.minimum.at(first, inverse.ravel(), places)
    first = first[inverse.ravel()] if len(places) else first
    return np.asarray(np.stack([places, first], axis=1)[places != first])


def _shared_places(keys: Sequence[Path], starts: Array, work: Path, band: int, prefix: int) -> Path:
    """Write the candidate pairs of one group of keys, one row group for each part that holds the later row of the pair."""
    from curation.dedup.kernels.sketch import pairs_in_runs

    table, equal = _group_of(keys, band * _PREFIXES + prefix), np.load(work / "equal.npy", mmap_mode="r")
    places = table["place"].to_numpy()
    # Of equal rows only the first is compared.
    is_first = ~np.isin(places, equal)
    places, values = places[is_first], table["key"].to_numpy()[is_first]
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
            # One row group, whatever its size: readers find a part by its number.
            writer.write_table(pa.table([pa.array(later[mine]), pa.array(earlier[mine])], schema=schema), row_group_size=2**31)
    return target


def _compare_part(parts: Sequence[Path], starts: Array, found: Sequence[Path], part: int, *, shingle: int, floor: float) -> Array:
    """Return (later, earlier, similarity) of the near pairs whose later row is in this part."""
    from curation.dedup.kernels.compare import compare_pairs

    table = _group_of(found, part)
    pairs = np.unique(np.stack([table["later"].to_numpy(), table["earlier"].to_numpy()], axis=1), axis=0)
    if not len(pairs):
        return np.empty((0, 3))
    places = np.unique(pairs)
    rows = keyed_rows(_texts_at(parts, starts, places)).rows
    local, which, scores = np.searchsorted(places, pairs), np.arange(len(places)), np.empty(len(pairs))
    counts = np.maximum(rows.sizes, 1) * 2  # the comparison needs an upper bound only
    no_signatures = np.empty((len(places), 0), np.uint64), 0
    compare_pairs(0, len(local), local, Places(which, counts, rows.raw, shingle, floor, no_signatures), scores)
    return np.column_stack([pairs, scores])[scores >= 0]


def _texts_at(parts: Sequence[Path], starts: Array, places: Array) -> pa.ChunkedArray:
    """Return the texts at some places, read from the row groups that hold them."""
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
