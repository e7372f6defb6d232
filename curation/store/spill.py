"""Large columns in files without a name, which the system may take out of memory and which end with the process."""

from __future__ import annotations

import mmap
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import IO

import pyarrow as pa

from curation.errors import ProjectError

VARIABLE = "SEEDCORN_MEMORY_MB"
_DEFAULT = 1024


def memory_limit() -> int:
    """Return the bytes of a column that are held in memory: `SEEDCORN_MEMORY_MB`, or a gigabyte.

    Raises:
        ProjectError: the variable is no number of megabytes.
    """
    given = os.environ.get(VARIABLE) or str(_DEFAULT)
    if not given.isdecimal():
        raise ProjectError(f"{VARIABLE}={given}", "is no whole number of megabytes", f"set it to {_DEFAULT}, or unset it")
    return int(given) * 2**20


class Bytes:
    """Bytes that grow, in memory up to a size and beyond it in a file."""

    def __init__(self, folder: Path | None) -> None:
        """Hold no bytes.

        Args:
            folder: of the file; None keeps all in memory.
        """
        self._folder, self._held, self._most = folder, bytearray(), memory_limit()
        self._file: IO[bytes] | None = None

    def add(self, parts: Sequence[bytes]) -> None:
        """Add bytes at the end."""
        self._held += b"".join(parts)
        if self._folder is not None and len(self._held) > (self._most if self._file is None else 0):
            self._file = self._file or unnamed_file(self._folder)
            self._file.write(self._held)
            self._held.clear()

    def all(self) -> bytearray | mmap.mmap:
        """Return all bytes; none are added afterwards."""
        if self._file is None:
            return self._held
        return mapped(self._file)


class Tables:
    """The parts of a table, in memory or in a file."""

    def __init__(self, folder: Path | None) -> None:
        """Hold no part.

        Args:
            folder: of the file; None keeps all in memory.
        """
        self._parts = list[pa.Table]()
        self._file = unnamed_file(folder) if folder is not None else None
        self._writer: pa.RecordBatchFileWriter | None = None

    def add(self, part: pa.Table) -> None:
        """Add rows at the end."""
        if self._file is None:
            self._parts.append(part)
            return
        self._writer = self._writer or pa.ipc.new_file(self._file, part.schema)
        self._writer.write_table(part)

    def all(self) -> pa.Table:
        """Return all rows, at least one part; none are added afterwards."""
        if self._file is None or self._writer is None:
            return pa.concat_tables(self._parts)
        self._writer.close()
        return pa.ipc.open_file(pa.py_buffer(mapped(self._file))).read_all()


def unnamed_file(folder: Path) -> IO[bytes]:
    """Return a new file without a name in a folder; it ends when it is closed and no longer mapped."""
    return tempfile.TemporaryFile(dir=folder)


def mapped(file: IO[bytes]) -> mmap.mmap:
    """Return the bytes of a file, which is closed, and ends with them."""
    with file:
        file.flush()
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
