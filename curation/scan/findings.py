"""Write findings as Parquet parts, one for each bucket of units."""

from __future__ import annotations

import json
from collections import Counter

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from curation.dedup.arrow_text import Array
from curation.scan.job import Job
from curation.scan.leaks import leaks_of
from curation.scan.pairs import DROPS
from curation.scan.storage import Folder, explained, read_group

FINDINGS = pa.schema(
    {
        "part": pa.string(), "row": pa.int64(), "kind": pa.string(), "score": pa.float64(), "kept_part": pa.string(),
        "kept_row": pa.int64(), "cluster": pa.int64(), "item": pa.string(), "evidence": pa.string(),
    }
)  # fmt: skip
"""One line per finding; each drops its row. `row` is the row's place in its part, from 0; `kept_part` and `kept_row` name the row that a
duplicate is dropped for; `cluster` is the place, among the rows of all parts, of the first row of its cluster; `item` and `evidence` are
those of a leak."""


def part_name(bucket: int) -> str:
    """Return the name of the findings of a bucket."""
    return f"findings-{bucket:06d}.parquet"


def write_findings(job: Job, bucket: int) -> None:
    """Write the findings of the rows of a bucket, in the order of the rows; the file's metadata counts them."""
    files, tables = job.files, [FINDINGS.empty_table()]
    if "equal" in files:
        table = read_group(job.work.below("equal"), files["equal"], bucket)
        table = pa.table([table["row"], table["twin"], pa.array(np.ones(len(table))), table["twin"]], schema=DROPS)
        tables.append(_duplicates(job, "exact", table))
    decided = [
        ("near", "compare-decide"),
        *(("semantic", step) for step in files if step.startswith("cosines") and step.endswith("decide")),
    ]
    tables += [_duplicates(job, kind, read_group(job.work.below(step), files[step], bucket)) for kind, step in decided if step in files]
    if "match" in files:
        for unit in job.units_in(bucket):
            leaks = leaks_of(job, unit)
            part, row = _located(job, leaks["row"].to_numpy())
            nulls = {name: pa.nulls(len(leaks), FINDINGS.field(name).type) for name in ("kept_part", "kept_row", "cluster")}
            values = {name: leaks[name] for name in ("kind", "score", "item", "evidence")} | {"part": part, "row": row} | nulls
            tables.append(pa.table([values[name] for name in FINDINGS.names], schema=FINDINGS))
    found = pa.concat_tables(tables).sort_by([("part", "ascending"), ("row", "ascending"), ("kind", "ascending")])
    counts = Counter("leaks" if kind.startswith("leak_") else kind for kind in found["kind"].to_pylist())
    counts["dropped"] = len(found.group_by(["part", "row"]).aggregate([]))
    sink = pa.BufferOutputStream()
    facts = {"found": json.dumps(counts)}
    pq.write_table(found.replace_schema_metadata(facts), sink, compression="zstd", write_page_checksum=True)
    job.target.write(part_name(bucket), memoryview(sink.getvalue()))


def read_counts(target: Folder, name: str) -> dict[str, int]:
    """Return how many findings of each kind a part holds, and under `dropped` how many rows have one."""
    with explained(f"{target.url}/{name}"), target.open(name) as file:
        return dict(json.loads(pq.read_schema(file).metadata[b"found"]))


def _duplicates(job: Job, kind: str, drops: pa.Table) -> pa.Table:
    part, row = _located(job, drops["row"].to_numpy())
    kept_part, kept_row = _located(job, drops["twin"].to_numpy())
    n = len(drops)
    columns = [part, row, pa.array([kind] * n, pa.string()), drops["similarity"], kept_part, kept_row, drops["cluster"]]
    return pa.table([*columns, pa.nulls(n, pa.string()), pa.nulls(n, pa.string())], schema=FINDINGS)


def _located(job: Job, places: Array) -> tuple[pa.Array, pa.Array]:
    """Return the names of the parts that hold some rows, and the rows' places in them."""
    units = np.searchsorted(job.starts, places, side="right") - 1
    names = pa.array([unit.part for unit in job.units], pa.string())
    firsts = np.array([unit.first for unit in job.units], np.int64)
    return names.take(pa.array(units)), pa.array(places - job.starts[units] + firsts[units])
