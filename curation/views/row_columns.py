"""The texts of rows as Arrow columns: each stored body is parsed once, for the gates, the splits, the sketches and the snapshot's files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.compute as pc

from curation.records import Kind
from curation.snapshot.write import schema_of
from curation.store.records import Row

_PART = 20_000
"""Rows parsed at a time: as Python values they take several times the size of the columns."""


@dataclass(frozen=True)
class RowColumns:
    """Rows of one kind, in the order in which they were read."""

    kind: Kind
    table: pa.Table
    """id, label, better; prompt, first and second (lists of messages; second of pairs alone); asked (the prompt as text, unless every
    prompt is one turn, whose text it is)."""

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

    def snapshot_rows(self, places: pa.Array) -> pa.Table:
        """Return the rows at some places in the columns of a snapshot. Nothing is checked: writing does."""
        some, schema = self.table.take(places), schema_of(self.kind)
        if self.kind == "instruction":
            return pa.table([some["prompt"], some["first"], some["id"], some["label"]], schema=schema)
        assert not some["better"].null_count
        is_first = pc.equal(some["better"], 0)
        chosen, rejected = (pc.if_else(is_first, some[a], some[b]) for a, b in (("first", "second"), ("second", "first")))
        return pa.table([some["prompt"], chosen, rejected, some["id"]], schema=schema)


def read_columns(kind: Kind, rows: Sequence[Row]) -> RowColumns:
    """Parse the bodies of rows of one kind."""
    parts = [_read_part(rows[start : start + _PART]) for start in range(0, len(rows), _PART)] or [_read_part(())]
    if all(part["asked"].equals(_content_of(part["prompt"])) for part in parts):
        parts = [part.drop_columns("asked") for part in parts]  # the bytes are not kept twice
    table = pa.concat_tables(parts)
    del parts
    # One chunk, so that rows are taken without a copy of all. Texts of 2 GB and more do not fit into one.
    return RowColumns(kind, table.combine_chunks() if table.nbytes < 2**31 else table)


def prompts_of(rows: Sequence[Row], held: Sequence[Row], columns: RowColumns) -> pa.ChunkedArray:
    """Return the prompts of rows, of which only those that the columns do not hold are parsed.

    Args:
        rows: of any kind.
        held: the rows of the columns.
        columns: parsed rows.
    """
    place = {row.seq: n for n, row in enumerate(held)}
    others = [row for row in rows if row.seq not in place]
    place |= {row.seq: len(held) + n for n, row in enumerate(others)}
    texts = pa.chunked_array([*columns.prompts.chunks, pa.array([row.prompt for row in others], pa.large_string())])
    return texts if len(rows) == len(texts) == len(held) else texts.take(pa.array([place[row.seq] for row in rows], pa.int64()))


def _read_part(rows: Sequence[Row]) -> pa.Table:
    asked, prompts, sizes = list[str](), list[dict[str, Any]](), [0]
    answers: tuple[list[dict[str, Any]], list[dict[str, Any]]] = ([], [])
    for row in rows:
        content = orjson.loads(row.body)
        prompt = content["prompt"]
        prompts += prompt
        sizes.append(len(prompts))
        # As `records.read_texts` reads it.
        asked.append(prompt[0]["content"] if len(prompt) == 1 else "\n\n".join([m["content"] for m in prompt if m["role"] == "user"]))
        if row.kind == "instruction":
            answers[0].append(content["completion"])
        else:
            for side, answer in zip(answers, content["completions"], strict=True):
                side.append(answer)
    told, each = _messages(prompts), pa.array(range(len(rows) + 1), pa.int32())
    columns = {
        "id": pa.array([row.id for row in rows], pa.string()),
        "label": pa.array([row.label for row in rows], pa.string()),
        "better": pa.array([row.better for row in rows], pa.int8()),
        "prompt": pa.ListArray.from_arrays(pa.array(sizes, pa.int32()), told),
        "asked": told.field("content").cast(pa.large_string()) if len(prompts) == len(rows) else pa.array(asked, pa.large_string()),
        "first": pa.ListArray.from_arrays(each, _messages(answers[0])),
    }
    if answers[1]:
        columns["second"] = pa.ListArray.from_arrays(each, _messages(answers[1]))
    return pa.table(columns)


def _messages(turns: Sequence[dict[str, Any]]) -> pa.StructArray:
    columns = [pa.array([turn.get(name) for turn in turns], pa.string()) for name in ("role", "content")]
    return pa.StructArray.from_arrays(columns, names=["role", "content"])


def _content_of(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return the text of lists of one message each."""
    return pa.chunked_array([pc.list_flatten(chunk).field("content").cast(pa.large_string()) for chunk in column.chunks], pa.large_string())


def _joined(one: pa.ChunkedArray, other: pa.ChunkedArray) -> pa.ChunkedArray:
    return pc.binary_join_element_wise(one, other, pa.scalar("\n\n", pa.large_string()))
