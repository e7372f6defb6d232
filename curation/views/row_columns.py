"""The texts of rows as Arrow columns: each stored body is parsed once, for the gates, the splits, the sketches and the snapshot's files."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json as pj

from curation.dedup.arrow_text import Rows as Texts
from curation.dedup.arrow_text import read_rows, thread_count
from curation.dedup.stored_text import find_prompts
from curation.records import Kind
from curation.snapshot.write import schema_of
from curation.store.rows import Numbers, Rows
from curation.store.spill import Tables, memory_limit
from curation.workspace import compared_texts

_PART, _BYTES = 50_000, 64_000_000
"""Rows, and bytes of their bodies, that are parsed at a time."""
_TURN = pa.struct([("role", pa.string()), ("content", pa.string())])


@dataclass(frozen=True)
class RowColumns:
    """Rows of one kind, in the order in which they were read."""

    kind: Kind
    table: pa.Table
    """id, label, better; prompt, first and second (lists of messages; second of pairs alone); asked (the prompt as text, unless every
    prompt is one turn, whose text it is)."""
    folder: Path | None = None
    """Of the workbench, for tables that are too large for memory."""

    @property
    def prompts(self) -> pa.ChunkedArray:
        """The prompt of each row as `prompt_text` returns it."""
        return self.table["asked"] if "asked" in self.table.column_names else _content_of(self.table["prompt"])

    @property
    def completions(self) -> pa.ChunkedArray:
        """The response of each row as `completion_text` returns it."""
        first = _content_of(self.table["first"])
        return first if self.kind == "instruction" else _joined(first, _content_of(self.table["second"]))

    def for_dedup(self, choice: str) -> pa.ChunkedArray:
        """Return the text of each row that dedup compares: "prompt", "completion" or "both" (`dedup.text`)."""
        if choice == "both":
            return _joined(self.prompts, self.completions)
        return self.prompts if choice == "prompt" else self.completions

    def snapshot_rows(self, places: Numbers) -> pa.Table:
        """Return the rows at some places in the columns of a snapshot. Nothing is checked: writing does."""
        parts, schema = Tables(self.folder if self.table.nbytes > memory_limit() else None), schema_of(self.kind)
        ranges = (places[start : start + _PART] for start in range(0, max(len(places), 1), _PART))
        with ThreadPoolExecutor(thread_count()) as pool:  # Arrow copies without Python's lock
            while batch := list(itertools.islice(ranges, thread_count())):
                for part in pool.map(partial(taken, self.table), batch):
                    parts.add(part)
        some = parts.all()
        if self.kind == "instruction":
            return pa.table([some["prompt"], some["first"], some["id"], some["label"]], schema=schema)
        assert not some["better"].null_count
        is_first = pc.equal(some["better"], 0)
        chosen, rejected = (pc.if_else(is_first, some[a], some[b]) for a, b in (("first", "second"), ("second", "first")))
        return pa.table([some["prompt"], chosen, rejected, some["id"]], schema=schema)


def read_columns(kind: Kind, rows: Rows) -> RowColumns:
    """Parse the bodies of rows of one kind, on all cores."""
    parts, is_plain, waiting = Tables(rows.folder if int(rows.sizes().sum()) > memory_limit() else None), True, _in_parts(rows)
    with ThreadPoolExecutor(thread_count()) as pool:  # Arrow parses without Python's lock
        while some := list(itertools.islice(waiting, thread_count())):
            for part in pool.map(partial(_read_part, kind), some):
                is_plain = is_plain and part["asked"].equals(_content_of(part["prompt"]))
                parts.add(part)
    table = parts.all()
    return RowColumns(kind, table.drop_columns("asked") if is_plain else table, rows.folder)  # the bytes are not kept twice


def taken(table: pa.Table, places: Numbers) -> pa.Table:
    """Return the rows of a table at some places. Arrow would copy all chunks into one for it."""
    chunks = table.to_batches()
    starts = np.cumsum([0, *(chunk.num_rows for chunk in chunks)])
    of = np.searchsorted(starts, places, side="right") - 1
    order = np.argsort(of, kind="stable")
    bounds = np.searchsorted(of[order], np.arange(len(chunks) + 1))
    parts = [
        chunk.take(pa.array(places[order[start:stop]] - first))
        for chunk, first, start, stop in zip(chunks, starts[:-1].tolist(), bounds[:-1].tolist(), bounds[1:].tolist(), strict=True)
        if stop > start
    ]
    found = pa.Table.from_batches(parts, table.schema).combine_chunks()
    if len(parts) < 2 or (order[1:] > order[:-1]).all():
        return found
    back = np.empty(len(order), np.int64)
    back[order] = np.arange(len(order))
    return found.take(pa.array(back))


def read_compared(rows: Rows, choice: str) -> pa.ChunkedArray:
    """Return the text of each row that dedup compares (`dedup.text`); of prompts nothing else of a body is parsed."""
    parts = (rows[start : start + _PART] for start in range(0, len(rows), _PART))
    with ThreadPoolExecutor(thread_count()) as pool:
        return pa.chunked_array(list(pool.map(partial(_compared_of, choice), parts)), pa.large_string())


def find_compared(rows: Rows, choice: str) -> Texts:
    """Return the texts of `read_compared` for the compiled loops; prompts of one turn are read where they are stored."""
    if choice != "prompt" or not len(rows):
        return read_rows(read_compared(rows, choice))
    found, is_other = find_prompts(*rows.in_memory(), kind=rows[0].kind)
    if not is_other.any():
        return found
    others = read_rows(read_compared(rows.where(is_other), choice))
    for column, values in ((found.addresses, others.addresses), (found.sizes, others.sizes)):
        column[is_other] = values
    return replace(found, owners=(*found.owners, *others.owners))


def _compared_of(choice: str, rows: Rows) -> pa.Array:
    if choice == "prompt":
        bodies = b"\n".join(rows.bodies())
        parsing = pj.ParseOptions(explicit_schema=pa.schema([("prompt", pa.list_(_TURN))]), unexpected_field_behavior="ignore")
        reading = pj.ReadOptions(use_threads=False, block_size=len(bodies) + 1)
        prompt = pj.read_json(pa.BufferReader(bodies), read_options=reading, parse_options=parsing)["prompt"].combine_chunks()
        if pc.all(pc.equal(pc.list_value_length(prompt), 1)).as_py():
            return pc.list_flatten(prompt).field("content").cast(pa.large_string())
    return pa.array(compared_texts(choice, (row.texts for row in rows)), pa.large_string())


def _in_parts(rows: Rows) -> Iterator[Rows]:
    """Yield the rows in parts of some thousand rows and some megabytes, at least one."""
    start, ends = 0, np.cumsum(rows.sizes())
    while start < len(rows):
        before = int(ends[start - 1]) if start else 0
        stop = max(start + 1, min(start + _PART, int(np.searchsorted(ends, before + _BYTES))))
        yield rows[start:stop]
        start = stop
    if not len(rows):
        yield rows


def prompts_of(rows: Rows, held: Rows, columns: RowColumns) -> pa.ChunkedArray:
    """Return the prompts of rows, of which only those that the columns do not hold are parsed.

    Args:
        rows: of any kind.
        held: the rows of the columns, in order of seq.
        columns: parsed rows.
    """
    at = np.minimum(np.searchsorted(held.seqs, rows.seqs), max(len(held) - 1, 0))
    is_held = held.seqs[at] == rows.seqs if len(held) else np.zeros(len(rows), np.bool_)
    if is_held.all():
        return columns.prompts if len(rows) == len(held) else texts_at(columns.prompts, at)
    others = pa.array([row.prompt for row in rows.where(~is_held)], pa.large_string())
    places = np.where(is_held, at, len(held) + np.cumsum(~is_held) - 1)
    return texts_at(pa.chunked_array([*columns.prompts.chunks, others]), places)


def texts_at(texts: pa.ChunkedArray, places: Numbers) -> pa.ChunkedArray:
    """Return the texts at some places, without a copy of the others."""
    table = pa.table([texts], ["text"])
    parts = [taken(table, places[start : start + _PART])["text"] for start in range(0, len(places), _PART)]
    return pa.chunked_array([chunk for part in parts for chunk in part.chunks], texts.type)


def _read_part(kind: Kind, rows: Rows) -> pa.Table:
    columns = {
        "id": pa.array(rows.hex_ids[:], pa.string()),
        "label": pa.array(rows.coded("label").to_list(), pa.string()),
        "better": pa.array(rows.better, pa.int8(), mask=rows.better < 0),
    }
    field, of = ("completion", _TURN) if kind == "instruction" else ("completions", pa.list_(_TURN))
    schema, bodies = pa.schema([("prompt", pa.list_(_TURN)), (field, of)]), b"\n".join(rows.bodies())
    if len(rows):
        parsing = pj.ParseOptions(explicit_schema=schema, unexpected_field_behavior="ignore")
        reading = pj.ReadOptions(use_threads=False, block_size=len(bodies) + 1)
        parsed = pj.read_json(pa.BufferReader(bodies), read_options=reading, parse_options=parsing).combine_chunks()
    else:
        parsed = schema.empty_table()
    prompt, answers = (parsed[name].combine_chunks() for name in ("prompt", field))
    is_plain = pc.all(pc.equal(pc.list_value_length(prompt), 1), min_count=0).as_py()
    columns["prompt"] = prompt
    columns["asked"] = (
        pc.list_flatten(prompt).field("content").cast(pa.large_string())
        if is_plain
        else pa.array([row.prompt for row in rows], pa.large_string())
    )
    each = pa.array(range(len(rows) + 1), pa.int32())
    if kind == "instruction":
        columns["first"] = pa.ListArray.from_arrays(each, answers)
    else:
        columns["first"], columns["second"] = (pa.ListArray.from_arrays(each, pc.list_element(answers, side)) for side in (0, 1))
    return pa.table(columns)


def _content_of(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return the text of lists of one message each."""
    return pa.chunked_array([pc.list_flatten(chunk).field("content").cast(pa.large_string()) for chunk in column.chunks], pa.large_string())


def _joined(one: pa.ChunkedArray, other: pa.ChunkedArray) -> pa.ChunkedArray:
    return pc.binary_join_element_wise(one, other, pa.scalar("\n\n", pa.large_string()))
