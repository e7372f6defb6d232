"""Read a file of examples row by row into records, whatever common shape it has."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any, Literal

import orjson

from curation.errors import ProjectError, RowError
from curation.formats.files import Row, RowFailure, read_raw
from curation.formats.shapes import NEEDS, USED, PairWithFact, Shape, find_shape, record_from
from curation.records import InstructionRecord

_HEAD = 50
"""How many readable rows decide on the shape."""
MOST_METADATA = 32 * 1024
"""Bytes of JSON that the other columns of one row may take."""


@dataclass(frozen=True, slots=True)
class ReadRow:
    """One row of a file: the records it holds, or the failure, and what else it says."""

    place: int
    """Line of a JSONL or CSV file, else the ordinal from 1."""
    values: tuple[InstructionRecord | PairWithFact, ...] = ()
    failure: RowFailure | None = None
    meta: Mapping[str, Any] = field(default_factory=dict)
    """Every column that is no part of the record, as JSON values."""
    left_out: tuple[str, ...] = ()
    """Columns that are not kept: the row's metadata is too large, or the value has no JSON form."""
    group: str | None = None
    """What the group column says; None where it is empty."""


def read_rows(
    path: Path,
    *,
    format: Shape | Literal["auto"] = "auto",
    columns: Mapping[str, str] | None = None,
    system_instruction: bool = False,
    label_column: str | None = "label",
    label_pattern: str | None = None,
) -> Iterator[tuple[int, InstructionRecord | PairWithFact | RowFailure]]:
    """Yield each record, pair or failure of a file with its line; the arguments are those of `open_rows`."""
    for row in open_rows(
        path, format=format, columns=columns, system_instruction=system_instruction, label_column=label_column, label_pattern=label_pattern
    ):  # fmt: skip
        for value in (row.failure,) if row.failure else row.values:
            yield row.place, value


def open_rows(
    path: Path,
    *,
    format: Shape | Literal["auto"] = "auto",
    columns: Mapping[str, str] | None = None,
    system_instruction: bool = False,
    label_column: str | None = "label",
    label_pattern: str | None = None,
    group_column: str | None = None,
) -> Iterator[ReadRow]:
    """Read a file row by row. A bad row is a failure and does not end the read.

    The shape is decided once, by the first rows; a later row that is not of it is a failure.

    Args:
        columns: our name to the file's, where they differ: {"prompt": "question", "completion": "answer"}.
        system_instruction: alpaca's instruction is the system message and its input the user's; otherwise both make up the
            user's message.
        label_column: the column (of the file) whose text is the row's class; a file without it has no classes.
        label_pattern: a regular expression whose first group, found in the completion, is the class instead.
        group_column: the column (of the file) whose rows of one value belong together.

    Raises:
        ProjectError: the file cannot be read, has no known shape, or lacks the group column.
    """
    names, pattern = dict(columns or {}), _compile(label_pattern)
    rows = read_raw(path)
    head = _take_head(rows)
    readable = [row for _, row in head if not isinstance(row, RowFailure)]
    shape = _find_shape(path, [_renamed(row, names) for row in readable], names) if format == "auto" else format
    if group_column is not None:
        _check_column(path, readable, group_column)
    for line, row in chain(head, rows):
        if isinstance(row, RowFailure):
            yield ReadRow(line, failure=row)
            continue
        value = _read_row(_renamed(row, names), shape, system_instruction, label_column, pattern)
        if isinstance(value, RowFailure):
            yield ReadRow(line, failure=value)
            continue
        used = {*names.values(), *(name for name in USED[shape] if name not in names)}
        if isinstance(value, InstructionRecord) and pattern is None:
            used.add(label_column or "")
        meta, left_out = metadata_of({name: cell for name, cell in row.items() if name not in used})
        yield ReadRow(line, (value,), None, meta, left_out, _group(row.get(group_column)) if group_column else None)


def _check_column(path: Path, rows: Sequence[Row], name: str) -> None:
    there = list(dict.fromkeys(column for row in rows for column in row))
    if rows and name not in there:
        raise ProjectError(f"--group {name}", f"{path.name} has no such column; it has {_shown(there)}", "name one of them")


def _group(value: Any) -> str | None:
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    return value if isinstance(value, str) else orjson.dumps(value, default=str, option=orjson.OPT_SORT_KEYS).decode()


def metadata_of(columns: Mapping[str, Any]) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Return the columns as JSON values that fit in MOST_METADATA bytes, and the names of those left out: the largest first, and
    values that have no JSON form (bytes, text that is no Unicode)."""
    texts: dict[str, bytes] = {}
    left_out: list[str] = []
    for name, value in columns.items():
        try:
            name.encode()
            texts[name] = orjson.dumps(value, default=_plain_value, option=orjson.OPT_NON_STR_KEYS)
        except (orjson.JSONEncodeError, UnicodeEncodeError, AttributeError):
            left_out.append(str(name).encode(errors="replace").decode())
    size = sum(len(name) + len(text) for name, text in texts.items())
    while size > MOST_METADATA:
        largest = max(texts, key=lambda name: len(name) + len(texts[name]))
        size -= len(largest) + len(texts.pop(largest))
        left_out.append(largest)
    return {name: orjson.loads(text) for name, text in texts.items()}, tuple(left_out)


def _plain_value(value: Any) -> Any:
    """Return what JSON has no type for (a decimal, a duration) as text."""
    if isinstance(value, bytes | bytearray | memoryview):
        raise TypeError("bytes")
    return str(value)


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
    found = _shown(list(dict.fromkeys(n for row in rows for n in row)))
    mapped = "".join(f"; {ours} was to be {theirs}" for ours, theirs in names.items())
    raise ProjectError(
        str(path),
        f"has the columns {found}{mapped}; known shapes are {known}",
        "name the columns, for example --column prompt=question --column completion=answer",
    )


def _shown(names: Sequence[str]) -> str:
    """Return column names for a message: at most 20 of at most 40 characters."""
    return ", ".join(name if len(name) <= 40 else f"{name[:40]}..." for name in names[:20]) + (", ..." if len(names) > 20 else "")


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
