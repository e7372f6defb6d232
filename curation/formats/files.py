"""Open JSONL, JSON array, CSV, TSV (each also as .gz) and Parquet files, and give their rows as plain values.

A row that cannot be read is a `RowFailure` with its place and its text; the read goes on after it.
"""

from __future__ import annotations

import csv
import gzip
import json
import zlib
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

import orjson

from curation.errors import ProjectError

ENDINGS = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet")
_PARQUET_BATCH = 10_000
_MAX_FIELD = 2**31 - 1


@dataclass(frozen=True)
class RowFailure:
    """A row that did not become a record: why, and what it was."""

    reason: str
    raw: str


Row = dict[str, Any]


def read_raw(path: Path) -> Iterator[tuple[int, Row | RowFailure]]:
    """Each row with its place: the line of a JSONL or CSV file, the ordinal (from 1) in an array or a Parquet file."""
    if not path.is_file():
        raise ProjectError(str(path), "is no file" if path.exists() else "does not exist", "curate import --help")
    ending = Path(path.stem).suffix.lower() if path.suffix.lower() == ".gz" else path.suffix.lower()
    if ending not in ENDINGS or (ending == ".parquet" and path.suffix.lower() == ".gz"):
        raise ProjectError(str(path), f"ends in {path.suffix or 'nothing'}", f"use one of {', '.join(ENDINGS)} (text also .gz)")
    if path.stat().st_size == 0:
        raise ProjectError(str(path), "is empty", "curate import --help")
    if ending == ".parquet":
        return _read_parquet(path)
    if ending in (".csv", ".tsv"):
        return _read_csv(path, "\t" if ending == ".tsv" else ",")
    return _read_array(path) if _first_byte(path) == b"[" else _read_lines(path)


def _open(path: Path) -> IO[bytes]:
    return cast("IO[bytes]", gzip.open(path)) if path.suffix.lower() == ".gz" else path.open("rb")


def _lines(path: Path) -> Iterator[bytes | RowFailure]:
    """The file's lines; a compressed file that breaks off ends in a RowFailure."""
    with _open(path) as file:
        try:
            yield from file
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            yield RowFailure(f"the compressed file is damaged from here on ({error})", "")


def _first_byte(path: Path) -> bytes:
    for line in _lines(path):
        if isinstance(line, bytes) and (text := line.removeprefix(b"\xef\xbb\xbf").strip()):
            return text[:1]
    return b""


def _read_lines(path: Path) -> Iterator[tuple[int, Row | RowFailure]]:
    for number, line in enumerate(_lines(path), start=1):
        if isinstance(line, RowFailure):
            yield number, line
        elif text := line.removeprefix(b"\xef\xbb\xbf").strip():
            yield number, _parse_line(text)


def _parse_line(text: bytes) -> Row | RowFailure:
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        return RowFailure(f"is no JSON ({error})", text.decode(errors="replace"))
    return _object(value)


def _object(value: Any) -> Row | RowFailure:
    if isinstance(value, dict):
        return value
    return RowFailure(f"is no JSON object but {type(value).__name__}", json.dumps(value, ensure_ascii=False))


def _read_array(path: Path) -> Iterator[tuple[int, Row | RowFailure]]:
    lines = list(_lines(path))
    body = b"".join(line for line in lines if isinstance(line, bytes)).removeprefix(b"\xef\xbb\xbf")
    try:
        values: Iterator[Row | RowFailure] = (_object(value) for value in orjson.loads(body))
    except orjson.JSONDecodeError:
        values = _salvage_array(body.decode(errors="surrogateescape"))
    yield from enumerate(values, start=1)


def _salvage_array(text: str) -> Iterator[Row | RowFailure]:
    """The items of a broken array up to the break; then one RowFailure that says where it is."""
    decoder, at = json.JSONDecoder(), text.index("[") + 1
    while True:
        at = _skip(text, at)
        try:
            value, end = decoder.raw_decode(text, at)
        except (json.JSONDecodeError, RecursionError):
            break
        yield _object(value)
        at = _skip(text, end)
        if text[at : at + 1] != ",":
            break
        at += 1
    if text[at:].strip() != "]":
        rest = text[at:].encode(errors="surrogateescape").decode(errors="replace")
        yield RowFailure(f"the array is broken at line {text.count(chr(10), 0, at) + 1}; what follows was not read", rest)


def _skip(text: str, at: int) -> int:
    while at < len(text) and text[at] in " \t\r\n":
        at += 1
    return at


def _read_csv(path: Path, delimiter: str) -> Iterator[tuple[int, Row | RowFailure]]:
    csv.field_size_limit(max(csv.field_size_limit(), _MAX_FIELD))
    broken: list[tuple[int, RowFailure]] = []
    source, again, taken = _numbered_text(path, broken), deque[tuple[int, str]](), list[tuple[int, str]]()
    header: list[str] | None = None
    reader = csv.reader(_feed(source, again, taken), delimiter=delimiter, strict=True)
    while True:
        taken.clear()
        try:
            fields = next(reader, None)
        except csv.Error as error:
            if header is None:
                raise ProjectError(str(path), f"its header is no CSV row ({error})", "curate import --help") from error
            # A quote that is never closed takes the lines after it along: give up the first one and read the others again.
            again.extendleft(reversed(taken[1:]))
            reader = csv.reader(_feed(source, again, taken), delimiter=delimiter, strict=True)
            yield taken[0][0], RowFailure(f"is no CSV row ({error})", taken[0][1])
            continue
        if fields is None:
            break
        if header is None:
            header = _header(path, fields)
        elif len(fields) != len(header) and fields:
            raw = "".join(text for _, text in taken)
            yield taken[0][0], RowFailure(f"has {len(fields)} fields; the header has {len(header)}", raw)
        elif fields:
            yield taken[0][0], dict(zip(header, fields, strict=True))
    yield from broken


def _header(path: Path, fields: list[str]) -> list[str]:
    header = [name.strip() for name in fields]
    if doubled := next((name for name in header if header.count(name) > 1), None):
        raise ProjectError(str(path), f"names the column {doubled!r} twice in its header", "rename one of them")
    return header


def _feed(source: Iterator[tuple[int, str]], again: deque[tuple[int, str]], taken: list[tuple[int, str]]) -> Iterator[str]:
    """Lines for csv.reader, those to be read again first; what it takes is remembered in `taken`."""
    while item := again.popleft() if again else next(source, None):
        taken.append(item)
        yield item[1]


def _numbered_text(path: Path, broken: list[tuple[int, RowFailure]]) -> Iterator[tuple[int, str]]:
    """The lines as text with their numbers. Bytes that are no UTF-8 become lone surrogates, which no record accepts."""
    for number, line in enumerate(_lines(path), start=1):
        if isinstance(line, RowFailure):
            broken.append((number, line))
            return
        yield number, (line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line).decode(errors="surrogateescape")


def _read_parquet(path: Path) -> Iterator[tuple[int, Row | RowFailure]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise ProjectError(str(path), f"is no Parquet file ({error})", "curate import --help") from error
    number = 0
    with file:
        for group in range(file.num_row_groups):
            rows = file.metadata.row_group(group).num_rows
            try:
                for batch in file.iter_batches(batch_size=_PARQUET_BATCH, row_groups=[group]):
                    for row in batch.to_pylist():
                        number += 1
                        yield number, row
                        rows -= 1
            except (pa.ArrowException, OSError) as error:
                yield number + 1, RowFailure(f"{rows} rows of row group {group} are damaged ({error})", "")
                number += rows
