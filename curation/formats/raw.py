"""Rows of a file before they are converted: what was detected, what could not be read, lines in any encoding."""

from __future__ import annotations

import gzip
import io
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, NamedTuple, cast

LONGEST_LINE = 64 * 2**20
"""Maximum bytes of one line; a longer one is a failed row."""

MOST_EXPANSION, FREE_BYTES = 200, 512 * 2**20
"""Maximum expanded size of a .gz file: a multiple of its size, and bytes that are always allowed."""


@dataclass(frozen=True)
class RowFailure:
    """A row that did not become a record: the reason and its text."""

    reason: str
    raw: str
    rows: int = 1
    """Number of rows, where a whole part of a file cannot be read."""


@dataclass(frozen=True)
class ReadAs:
    """Properties of a file that the user states, so that they are not detected."""

    encoding: str | None = None
    delimiter: str | None = None
    sheet: str | None = None
    header: bool = True
    """False: the columns have no names and are called 1, 2, 3."""


@dataclass(frozen=True)
class Detected:
    """Properties of a file as it was read."""

    kind: str
    """JSONL, JSON, CSV, Excel, Parquet, Arrow or Hub."""
    encoding: str = ""
    delimiter: str = ""
    quotes: bool = True
    """False: quotes are part of the text."""
    sheet: str = ""
    other_sheets: tuple[str, ...] = ()
    splits: tuple[str, ...] = ()
    revision: str = ""
    """Commit of a data set of the Hub."""

    def describe(self) -> str:
        """Return what was detected, for the screen: "CSV, cp1252, semicolon"."""
        names = {",": "comma", ";": "semicolon", "\t": "tab", "|": "pipe"}
        parts = [self.kind, self.encoding, names.get(self.delimiter, self.delimiter and repr(self.delimiter))]
        parts += ["" if self.quotes else "quotes are text", f"sheet {self.sheet}" if self.sheet else ""]
        parts += [f"splits {', '.join(self.splits)}" if self.splits else "", self.revision and f"revision {self.revision[:12]}"]
        return ", ".join(part for part in parts if part)


Row = dict[str, Any]

Rows = Iterator[tuple[int, Row | RowFailure]]


@dataclass(frozen=True)
class RawFile:
    """An open file: what was detected, and its rows, which can be read once."""

    detected: Detected
    rows: Rows
    lines: Path | None = None
    """The file, where each of its lines is a row and can be found by its bytes, so that `read_lines` reads any part."""

    def __iter__(self) -> Rows:
        return self.rows


def shown(names: list[str], *, most: int = 20) -> str:
    """Return column names for a message: at most 20, of at most 40 characters each."""
    short = [name if len(name) <= 40 else f"{name[:40]}..." for name in names[:most]]
    return ", ".join(short) + (f" and {len(names) - most:,} more" if len(names) > most else "")


# Bytes, encodings, lines


def open_bytes(path: Path) -> IO[bytes]:
    """Open a file for reading; one that ends in .gz is expanded as it is read."""
    return cast("IO[bytes]", gzip.open(path)) if path.suffix.lower() == ".gz" else path.open("rb")


def sample_of(path: Path, size: int) -> bytes:
    """Return the first bytes of a file, uncompressed; empty for a damaged archive."""
    with open_bytes(path) as file:
        try:
            return file.read(size)
        except (EOFError, gzip.BadGzipFile, zlib.error):
            return b""


def lines_of(path: Path, encoding: str) -> Iterator[bytes | RowFailure]:
    """Yield the lines as UTF-8; a truncated archive, or text in another encoding, ends in a RowFailure."""
    try:
        with open_bytes(path) as file:
            if encoding in ("utf-8", "utf-8-sig"):
                most = max(FREE_BYTES, MOST_EXPANSION * path.stat().st_size) if path.suffix.lower() == ".gz" else None
                yield from _byte_lines(file, most)
                return
            text = io.TextIOWrapper(file, encoding=encoding, newline="\n")
            while line := text.readline(LONGEST_LINE):
                if len(line) == LONGEST_LINE:
                    yield RowFailure(f"the line is longer than {LONGEST_LINE // 2**20} MiB; the rest of the file was not read", line[:500])
                    return
                yield line.encode()
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        yield RowFailure(f"the compressed file is damaged from here on ({error})", "")
    except UnicodeError as error:
        yield RowFailure(f"the text is not {encoding} from here on ({getattr(error, 'reason', error)})", "")


class Lines(NamedTuple):
    """Whole lines of a file."""

    start: int
    """Byte."""
    end: int
    first: int
    """Number of the first line, from 1."""


def split_lines(path: Path, *, lines: int, size: int, chunk: int = 64 * 2**10) -> Iterator[Lines]:
    """Yield a file in parts of whole lines.

    Args:
        path: the file.
        lines: lines after which a part ends, counted by chunks.
        size: bytes after which it ends; a longer line is in one part all the same.
        chunk: bytes in which newlines are counted at a time.
    """
    with path.open("rb") as file:
        start, first, at, held = 0, 1, 0, 0
        while piece := file.read(chunk):
            held += piece.count(b"\n")
            cut = piece.rfind(b"\n") + 1
            if cut and (held >= lines or at + cut - start >= size):
                yield Lines(start, at + cut, first)
                start, first, held = at + cut, first + held, 0
            at += len(piece)
        if at > start:
            yield Lines(start, at, first)


def lines_in(path: Path, part: Lines) -> Iterator[bytes | RowFailure]:
    """Yield the lines of a part of a UTF-8 file, as `lines_of` yields those of all of it."""
    size = part.end - part.start
    with path.open("rb") as file:
        file.seek(part.start)
        # In so few bytes no line is too long.
        yield from file.read(size).split(b"\n") if size <= LONGEST_LINE else _byte_lines(file, None, size)


def _byte_lines(file: IO[bytes], most: int | None, size: int | None = None) -> Iterator[bytes | RowFailure]:
    """Yield the lines of a file; with `size` those of so many bytes, which end with a line."""
    read, left = 0, size
    # One byte more than is allowed, to distinguish a line of exactly that length from a longer one.
    while (left is None or left > 0) and (line := file.readline(LONGEST_LINE + 1)):
        read += len(line)
        left = left and left - len(line)
        if most is not None and read > most:
            yield RowFailure(f"the compressed file expands to more than {most:,} bytes; the rest was not read", "")
            return
        if len(line) <= LONGEST_LINE:
            yield line
            continue
        start = line[:500].decode(errors="replace")
        # Read on to the end of the long line in parts, so that the next line is read from its beginning.
        while line and not line.endswith(b"\n"):
            line = file.readline(LONGEST_LINE)
            left = left and left - len(line)
        yield RowFailure(f"the line is longer than {LONGEST_LINE // 2**20} MiB", start)
