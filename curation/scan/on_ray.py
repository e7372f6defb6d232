"""Find the near-duplicates of rows that this process holds, on the workers of a Ray cluster: `curate dedup --ray`."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from curation.dedup.arrow_text import Texts, arrow_texts
from curation.dedup.lsh import bands_for
from curation.dedup.resolve import DROPS, MEASURES, Decided, drop_table, order_by_rank
from curation.scan.job import Job, ScanSettings
from curation.scan.run import Run, find_near_in_parts
from curation.scan.storage import Folder, inspect_part, read_group, units_of
from curation.scan.workers import connected

# Rows in a row group of a part.
_GROUP = 10_000


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
        ProjectError: Ray is not installed, no cluster answers, or workers die.
    """
    n, order = len(texts), order_by_rank(len(texts), rank)
    column: Any = texts if isinstance(texts, pa.Array | pa.ChunkedArray) else arrow_texts(texts)
    with connected(address) as workers, tempfile.TemporaryDirectory(dir=work) as name:
        folder = Path(name)
        for start in range(0, n, rows_per_part):
            rows = pa.array(order[start : start + rows_per_part])
            own = pa.nulls(len(rows), pa.string()) if labels is None else pa.array(labels, pa.string()).take(rows)
            table = pa.table({"text": column.take(rows), "label": own})
            pq.write_table(table, folder / f"part-{start:012d}.parquet", row_group_size=min(_GROUP, rows_per_part))
        source = Folder.of(name)
        parts = [inspect_part(source, part, [("text", "bytes"), ("label", "text")]) for part in source.names(".parquet")]
        if not parts:
            return DROPS.empty_table()
        settings = ScanSettings(label="label", near=threshold, shingle=shingle, rows_per_task=rows_per_part)
        run = Run(Job(source, source.below("work"), source, settings, units_of(parts, rows_per_part), bands_for(threshold)), workers)
        find_near_in_parts(run)
        equal, near = (_all_of(run.job, step) for step in ("equal", "compare-decide"))
    first, rows, kept, root, similarity = np.arange(n), np.arange(n), np.arange(n), np.arange(n), np.ones(n)
    # The parts hold the best row first, so a place is an index into `order`.
    first[order[equal["row"].to_numpy()]] = order[equal["twin"].to_numpy()]
    dropped = order[near["row"].to_numpy()]
    kept[dropped], root[dropped] = order[near["twin"].to_numpy()], order[near["cluster"].to_numpy()]
    similarity[dropped] = near["similarity"].to_numpy()
    return drop_table(first, Decided(rows, kept, similarity, np.full(n, MEASURES.index("jaccard"), np.int8), root))


def _all_of(job: Job, step: str) -> pa.Table:
    return pa.concat_tables([read_group(job.work.below(step), job.files[step], bucket) for bucket in range(job.buckets)])
