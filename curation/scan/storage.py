"""Parts and intermediate files in any folder that fsspec opens: a path, s3://, gs://, az://.

Rows are read from Parquet. Intermediate files are Arrow IPC files with one record batch for each group that a later task reads: its footer
takes 24 bytes for a batch, where Parquet's takes some hundred for each column of a row group, and tasks read the footers of many files. A
file appears whole: locally by renaming, in an object store because an upload becomes visible when it is complete. So a file that exists is
finished work, and a repeated command continues where the last one ended.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from curation.dedup.arrow_text import Array
from curation.errors import ProjectError, UserError

_SMALL = 2**20
AGAIN = "run the same command again; finished work is kept"
_EXTRAS = {"s3": "s3", "s3a": "s3", "gs": "gs", "gcs": "gs", "az": "az", "abfs": "az", "abfss": "az"}


Facts = dict[str, int]
"""Numbers in the metadata of an intermediate file, which its task also returns."""


@dataclass(frozen=True)
class Folder:
    """A folder of any filesystem that fsspec knows."""

    url: str

    @staticmethod
    def of(name: str) -> Folder:
        """Return the folder of a URL or a path; a path is made absolute, because workers run elsewhere."""
        is_url = re.match(r"^[a-z][a-z0-9+.-]*://", name) is not None
        return Folder(name.rstrip("/") if is_url else os.path.abspath(name))  # noqa: PTH100, the name of a folder that may not exist

    def below(self, name: str) -> Folder:
        """Return a folder in this one."""
        return Folder(f"{self.url}/{name}")

    def names(self, suffix: str = "") -> list[str]:
        """Return the sorted names of the files in the folder; none if there is no folder."""
        with explained(self.url):
            fs, root = _open(self.url)
            try:
                found = fs.ls(root, detail=True)
            except FileNotFoundError:
                return []
        names = (entry["name"].rstrip("/").rsplit("/", 1)[-1] for entry in found if entry["type"] == "file")
        return sorted(name for name in names if name.endswith(suffix) and not name.startswith((".", "_")))

    def open(self, name: str, *, cache: str = "none") -> Any:
        """Open a file for reading; `cache` is fsspec's strategy of reading ahead."""
        fs, root = _open(self.url)
        if "file" in np.atleast_1d(fs.protocol):
            return fs.open(f"{root}/{name}", "rb")
        file = fs.open(f"{root}/{name}", "rb", cache_type=cache)
        # One request for a small file in place of one for each piece.
        return io.BytesIO(file.read()) if file.size <= _SMALL else file

    def read(self, name: str) -> bytes | None:
        """Return the bytes of a small file, None if it is missing."""
        with explained(self.url):
            fs, root = _open(self.url)
            try:
                return bytes(fs.cat_file(f"{root}/{name}"))
            except FileNotFoundError:
                return None

    def write(self, name: str, body: bytes | memoryview) -> None:
        """Write a file that appears whole."""
        with explained(self.url):
            fs, root = _open(self.url)
            target = f"{root}/{name}"
            if "file" not in np.atleast_1d(fs.protocol):
                fs.pipe_file(target, bytes(body))
                return
            os.makedirs(os.path.dirname(target), exist_ok=True)  # noqa: PTH103, PTH120, fsspec's paths are strings
            aside = f"{os.path.dirname(target)}/.{name.rsplit('/', 1)[-1]}.{uuid.uuid4().hex}"  # noqa: PTH120
            with open(aside, "wb") as file:
                file.write(body)
                file.flush()
                os.fsync(file.fileno())
            os.replace(aside, target)  # noqa: PTH105

    def remove(self) -> None:
        """Remove the folder with all it holds."""
        with explained(self.url):
            fs, root = _open(self.url)
            if fs.exists(root):
                fs.rm(root, recursive=True)


def write_groups(folder: Folder, name: str, groups: Iterable[pa.Table], schema: pa.Schema, **facts: int) -> Facts:
    """Write an IPC file with one record batch for each group, and return the facts.

    Args:
        folder: where to.
        name: of the file.
        groups: one table each, in the order of their numbers.
        schema: of the tables.
        facts: numbers for the file's metadata.
    """
    sink = pa.BufferOutputStream()
    schema = schema.with_metadata({key: str(value) for key, value in facts.items()})
    with pa.ipc.new_file(sink, schema, options=pa.ipc.IpcWriteOptions(compression="lz4")) as writer:
        for table in groups:
            arrays = [pa.concat_arrays(table[field.name].chunks) if table.num_rows else pa.array([], field.type) for field in schema]
            writer.write_batch(pa.record_batch(arrays, schema=schema))
    folder.write(name, memoryview(sink.getvalue()))
    return facts


def read_group(folder: Folder, names: Sequence[str], groups: int | Callable[[str], Sequence[int]]) -> pa.Table:
    """Read the same group of several files into one table, with the file's place in `names` as the column `file`.

    Args:
        folder: of the files.
        names: IPC files of one schema, at least one.
        groups: number of the group, or a function that gives the numbers for a file.
    """
    tables = list[pa.Table]()
    with explained(folder.url):
        for place, name in enumerate(names):
            with folder.open(name) as file:
                reader = pa.ipc.open_file(file)
                wanted = [groups] if isinstance(groups, int) else groups(name)
                table = pa.Table.from_batches([reader.get_batch(group) for group in wanted], reader.schema.remove_metadata())
            tables.append(table.append_column("file", pa.array(np.full(table.num_rows, place, np.int32))))
    # Vectors of no rows have no width, so empty tables may have another type.
    return pa.concat_tables([table for table in tables if table.num_rows] or tables[:1])


def read_facts(folder: Folder, name: str) -> Facts:
    """Return the numbers in the metadata of an IPC file."""
    with explained(folder.url), folder.open(name) as file:
        metadata = pa.ipc.open_file(file).schema.metadata or {}
    return {key.decode(): int(value) for key, value in metadata.items()}


def split_groups(table: pa.Table, group: Array, count: int) -> Iterator[pa.Table]:
    """Yield the lines of each group 0 … count - 1, in their order."""
    order = np.argsort(group, kind="stable")
    cuts = np.searchsorted(group[order], np.arange(count + 1))
    table = table.take(pa.array(order))
    for start, stop in zip(cuts[:-1].tolist(), cuts[1:].tolist(), strict=True):
        yield table.slice(start, stop - start)


@dataclass(frozen=True)
class Part:
    """A Parquet file of rows."""

    name: str
    rows: tuple[int, ...]
    """Rows of each row group."""
    digest: str
    """Of size and footer: a file that was written again has another one."""


@dataclass(frozen=True)
class Unit:
    """Consecutive row groups of one part: what one task reads."""

    part: str
    groups: tuple[int, ...]
    start: int
    """Place of its first row among the rows of all parts."""
    first: int
    """Place of its first row in its part."""
    rows: int


def inspect_part(folder: Folder, name: str, columns: Sequence[tuple[str, str]]) -> Part:
    """Read the footer of a Parquet file and check the columns.

    Args:
        folder: of the parts.
        name: of the file.
        columns: (name, kind) of each column that is needed; the kind is "text" or "vector".

    Raises:
        ProjectError: the file is truncated or no Parquet file, or a column is missing or of another type.
    """
    where = f"{folder.url}/{name}"
    with explained(where), folder.open(name) as file:
        size = file.seek(0, io.SEEK_END)
        file.seek(max(0, size - 8))
        tail = file.read(8)
        if size < 12 or tail[4:] != b"PAR1":
            raise ProjectError(where, "is truncated or no Parquet file: its last bytes are not a Parquet footer", "write this part again")
        length = int.from_bytes(tail[:4], "little")
        file.seek(max(0, size - 8 - length))
        digest = hashlib.sha256(size.to_bytes(8, "little") + file.read(length)).hexdigest()
        file.seek(0)
        metadata = pq.ParquetFile(file)
        rows = tuple(metadata.metadata.row_group(group).num_rows for group in range(metadata.num_row_groups))
        ends = max((_end_of(metadata.metadata.row_group(group)) for group in range(metadata.num_row_groups)), default=0)
        schema = metadata.schema_arrow
    if ends > size - 8 - length:
        raise ProjectError(where, "is damaged: its footer names bytes beyond its end", "write this part again")
    for column, kind in columns:
        if column not in schema.names:
            raise ProjectError(where, f"has no column {column!r}; it has {', '.join(schema.names[:12])}", "name another column")
        found = schema.field(column).type
        if kind == "text" and not (pa.types.is_string(found) or pa.types.is_large_string(found) or pa.types.is_dictionary(found)):
            raise ProjectError(where, f"column {column!r} is {found}; it must hold text", "name another column")
        if kind == "vector" and not (pa.types.is_list(found) or pa.types.is_large_list(found) or pa.types.is_fixed_size_list(found)):
            raise ProjectError(where, f"column {column!r} is {found}; it must hold lists of numbers", "name another column")
    return Part(name, rows, digest)


def units_of(parts: Sequence[Part], rows_per_task: int) -> tuple[Unit, ...]:
    """Return the units of all parts: row groups in order, as many as fit into `rows_per_task`, at least one."""
    units, start = list[Unit](), 0
    for part in parts:
        first, groups, rows = 0, list[int](), 0
        for number, size in enumerate(part.rows):
            if groups and rows + size > rows_per_task:
                units.append(Unit(part.name, tuple(groups), start + first, first, rows))
                first, groups, rows = first + rows, [], 0
            groups.append(number)
            rows += size
        if rows:
            units.append(Unit(part.name, tuple(groups), start + first, first, rows))
        start += sum(part.rows)
    return tuple(units)


def read_unit(folder: Folder, unit: Unit, columns: Sequence[str]) -> pa.Table:
    """Read columns of a unit; text columns as large strings.

    Raises:
        ProjectError: the bytes of the part are damaged, or are others than when the scan began.
    """
    where = f"{folder.url}/{unit.part}"
    with explained(where), folder.open(unit.part, cache="readahead") as file:
        parquet = pq.ParquetFile(file, page_checksum_verification=True, pre_buffer=True)
        table = parquet.read_row_groups(list(unit.groups), columns=list(columns), use_threads=False)
    if table.num_rows != unit.rows:
        raise ProjectError(where, "has changed since the scan began", "name another target, and scan again")
    for place, field in enumerate(table.schema):
        if pa.types.is_string(field.type) or pa.types.is_dictionary(field.type):
            table = table.set_column(place, field.name, table[field.name].cast(pa.large_string()))
    return table.select(list(columns))


@contextmanager
def explained(where: str) -> Iterator[None]:
    """Turn the failures of a file or a store into one sentence."""
    scheme = where.partition("://")[0]
    try:
        yield
    except UserError:
        raise
    except ImportError as error:
        package = f"'seedcorn[{_EXTRAS[scheme]}]'" if scheme in _EXTRAS else (error.name or "the package of this store")
        raise ProjectError(where, f"needs a package that is not installed ({error})", f"pip install {package}") from error
    except pa.ArrowException as error:
        raise _damaged(where, error) from error
    except FileNotFoundError as error:
        raise ProjectError(where, f"does not exist ({_brief(error)})", "check the address, then " + AGAIN) from error
    except PermissionError as error:
        raise ProjectError(
            where, f"may not be read or written ({_brief(error)})", "check the account and its rights, then " + AGAIN
        ) from error
    except (MemoryError, KeyboardInterrupt):
        raise
    except Exception as error:  # each store raises classes of its own: botocore, gcsfs, azure, aiohttp
        is_of_store = type(error).__module__.partition(".")[0] in _STORES
        if isinstance(error, OSError) and error.errno is None and not is_of_store:
            raise _damaged(where, error) from error  # Arrow's, of a page whose checksum is wrong
        if isinstance(error, OSError) or is_of_store:
            raise ProjectError(where, f"cannot be read or written ({_brief(error)})", AGAIN) from error
        raise


_STORES = {"aiohttp", "aiobotocore", "azure", "botocore", "gcsfs", "google", "s3fs", "fsspec"}


def _damaged(where: str, error: BaseException) -> ProjectError:
    return ProjectError(where, f"is truncated or damaged ({_brief(error)})", "write this file again; " + AGAIN)


def _brief(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


def _end_of(group: Any) -> int:
    """Return the end of the last column chunk of a row group."""
    ends = [0]
    for number in range(group.num_columns):
        column = group.column(number)
        begin = column.dictionary_page_offset if column.has_dictionary_page else column.data_page_offset
        ends.append(min(begin, column.data_page_offset) + column.total_compressed_size)
    return max(ends)


def _open(url: str) -> tuple[Any, str]:
    import fsspec

    if "://" not in url:
        return fsspec.filesystem("file"), url
    fs, root = fsspec.core.url_to_fs(url, use_listings_cache=False)  # other processes write there too
    return fs, str(root).rstrip("/")
