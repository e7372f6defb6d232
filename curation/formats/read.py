"""Read a file of examples row by row into records, whatever common shape it has."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import Any, Literal

import orjson

from curation.errors import ProjectError, RowError
from curation.formats.files import Row, RowFailure, read_raw
from curation.formats.shapes import NEEDS, PairWithFact, Shape, find_shape, record_from
from curation.records import InstructionRecord

_HEAD = 50
"""How many readable rows decide on the shape."""


def read_rows(
    path: Path,
    *,
    format: Shape | Literal["auto"] = "auto",
    columns: Mapping[str, str] | None = None,
    system_instruction: bool = False,
    label_column: str | None = "label",
    label_pattern: str | None = None,
) -> Iterator[tuple[int, InstructionRecord | PairWithFact | RowFailure]]:
    """Each row of the file with its line (or ordinal) as a record, a pair and its choice, or a RowFailure; a bad row ends nothing.

    The shape is decided once, by the first rows; a later row that is not of it is a RowFailure.

    Args:
        columns: our name to the file's, where they differ: {"prompt": "question", "completion": "answer"}.
        system_instruction: alpaca's instruction is the system message and its input the user's; otherwise both make up the
            user's message.
        label_column: the column (of the file) whose text is the row's class; a file without it has no classes.
        label_pattern: a regular expression whose first group, found in the completion, is the class instead.
    """
    names, pattern = dict(columns or {}), _compile(label_pattern)
    rows = ((line, row if isinstance(row, RowFailure) else _renamed(row, names)) for line, row in read_raw(path))
    head = _take_head(rows)
    readable = [row for _, row in head if not isinstance(row, RowFailure)]
    shape = _find_shape(path, readable, names) if format == "auto" else format
    for line, row in chain(head, rows):
        yield line, row if isinstance(row, RowFailure) else _read_row(row, shape, system_instruction, label_column, pattern)


def _compile(pattern: str | None) -> re.Pattern[str] | None:
    if pattern is None:
        return None
    try:
        compiled = re.compile(pattern, re.MULTILINE)
    except re.error as error:
        raise ProjectError("label pattern", f"{pattern!r} is no regular expression ({error})") from error
    if not compiled.groups:
        raise ProjectError("label pattern", f"{pattern!r} has no group; the class is what the first group finds")
    return compiled


def _renamed(row: Row, names: Mapping[str, str]) -> Row:
    """The row under our column names; a column of ours that another one stands in for is set aside."""
    if not names:
        return row
    kept = {name: value for name, value in row.items() if name not in names and name not in names.values()}
    return kept | {ours: row.get(theirs) for ours, theirs in names.items()}


def _take_head(rows: Iterator[tuple[int, Row | RowFailure]]) -> list[tuple[int, Row | RowFailure]]:
    head: list[tuple[int, Row | RowFailure]] = []
    readable = 0
    for line, row in rows:
        head.append((line, row))
        readable += not isinstance(row, RowFailure)
        if readable == _HEAD:
            break
    return head


def _find_shape(path: Path, rows: list[Row], names: Mapping[str, str]) -> Shape:
    """The shape most rows have. A file without one readable row gets any shape: all its rows are failures."""
    votes = Counter(shape for row in rows if (shape := find_shape(row)))
    if votes:
        return votes.most_common(1)[0][0]
    if not rows:
        return "messages"
    known = ", ".join(f"{shape} ({', '.join(need)})" for shape, need in NEEDS.items())
    found = ", ".join(name if len(name) <= 40 else f"{name[:40]}..." for name in list(dict.fromkeys(n for row in rows for n in row))[:20])
    mapped = "".join(f"; {ours} was to be {theirs}" for ours, theirs in names.items())
    raise ProjectError(
        str(path),
        f"has the columns {found}{mapped}; known shapes are {known}",
        "name the columns, for example --column prompt=question --column completion=answer",
    )


def _read_row(
    row: Row, shape: Shape, system_instruction: bool, label_column: str | None, pattern: re.Pattern[str] | None
) -> InstructionRecord | PairWithFact | RowFailure:
    try:
        label = _label(row.get(label_column)) if label_column and pattern is None else None
        record = record_from(row, shape=shape, system_instruction=system_instruction, label=label)
    except RowError as error:
        return RowFailure(f"{error.what}: {error.fact}", _raw(row))
    if pattern is None or isinstance(record, PairWithFact):
        return record
    match = pattern.search(record.completion.content)
    return record.model_copy(update={"label": match[1]}) if match and match[1] else record


def _label(value: Any) -> str | None:
    """A class as text; true and false are no classes but unpaired feedback."""
    if value is None or value == "" or isinstance(value, bool):
        return None
    if isinstance(value, str | int):
        return str(value)
    raise RowError("label", f"must be text or a whole number, not {type(value).__name__}")


def _raw(row: Row) -> str:
    """The row as JSON, for whoever looks into the failure; text that is no Unicode is shown escaped, as Python shows it."""
    try:
        return orjson.dumps(row, default=repr).decode()
    except orjson.JSONEncodeError:
        return repr(row)
