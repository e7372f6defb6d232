"""Open binary tables: Parquet, Arrow files and folders, Excel sheets, and data sets of the Hugging Face Hub.

`datasets` opens its own `save_to_disk` folders and the Hub, and gives the names of classes stored as numbers. Parquet and Excel
files are checked before they are read, because a few bytes can claim billions of rows.
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from curation.errors import ProjectError
from curation.formats.delimited import header_of, named_cells
from curation.formats.raw import Detected, RawFile, ReadAs, Row, RowFailure, Rows

if TYPE_CHECKING:
    import pyarrow as pa

HUB = "hf://"
_BATCH = 1_000
_MOST_ROWS_PER_BYTE = 100
_FREE_ROWS = 100_000
_MOST_EXPANSION = 1_000
_FREE_BYTES = 256 * 2**20
"""Expanded bytes that a compressed file may always have, whatever its size."""
_SUSPICIOUS = 20
"""Expansion of a Parquet file from which its texts are read as dictionaries."""


# Parquet


def read_parquet(path: Path) -> RawFile:
    """Open a Parquet file; a damaged row group is one failure, a value that is not text another.

    Raises:
        ProjectError: it is not a Parquet file, or claims far more rows or bytes than a file of its size can hold.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            size, about = path.stat().st_size, file.metadata
            # The number of groups is what the file claims, too.
            groups = [about.row_group(n) for n in range(min(about.num_row_groups, 100_000))]
            bytes_in = sum(group.total_byte_size for group in groups)
            if about.num_rows > max(_FREE_ROWS, _MOST_ROWS_PER_BYTE * size):
                raise ProjectError(
                    str(path), f"claims {about.num_rows:,} rows in {size:,} bytes", "write the file again; it cannot be right"
                )
            if bytes_in > max(_FREE_BYTES, _MOST_EXPANSION * size):
                fact = f"expands from {size:,} to {bytes_in:,} bytes, more than {_MOST_EXPANSION:,} times its size"
                raise ProjectError(str(path), fact, "write the file again with less compression, if it is right")
            names = _class_names(file.schema_arrow)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise ProjectError(str(path), f"is not a Parquet file ({_first_line(error)})", "curate import --help") from error
    return RawFile(Detected("Parquet"), _parquet_rows(path, names))


def _parquet_rows(path: Path, names: Mapping[str, Sequence[str]]) -> Rows:
    import pyarrow as pa
    import pyarrow.parquet as pq

    number, expanded, most = 0, 0, max(_FREE_BYTES, _MOST_EXPANSION * path.stat().st_size)
    with pq.ParquetFile(path, read_dictionary=_texts_of(path)) as file:
        for group in range(file.num_row_groups):
            rows = file.metadata.row_group(group).num_rows
            try:
                # Without threads: pyarrow's pool aborted one process in ten at exit after reading a small file.
                for batch in file.iter_batches(batch_size=_BATCH, row_groups=[group], use_threads=False):
                    expanded += _size_of(batch)  # a value that is stored once can be repeated in every row
                    if expanded > most:
                        fact = f"{number + batch.num_rows:,} rows expand to {expanded:,} bytes, from {path.stat().st_size:,}"
                        raise ProjectError(str(path), fact, "write the file again with fewer or shorter texts")
                    for row in _rows_of(batch, names):
                        number += 1
                        yield number, row
                        rows -= 1
            except (pa.ArrowException, OSError) as error:
                yield number + 1, RowFailure(f"{rows} rows of row group {group} are damaged ({_first_line(error)})", "", rows=rows)
                number += rows


def _texts_of(path: Path) -> list[str]:
    """Return the columns to read as dictionaries: the texts of a file that expands a lot, whose values may be repeated without end.

    Each value is then in memory once, and the size of the rows is known before they are built.
    """
    import pyarrow.parquet as pq

    about = pq.read_metadata(path)
    bytes_in = sum(about.row_group(n).total_byte_size for n in range(about.num_row_groups))
    if bytes_in < _SUSPICIOUS * path.stat().st_size and about.num_rows < path.stat().st_size:
        return []
    columns = [about.schema.column(n) for n in range(about.num_columns)]
    return [column.path for column in columns if column.physical_type == "BYTE_ARRAY"]


def _size_of(batch: pa.RecordBatch) -> int:
    """Return the bytes of a batch with the values of its dictionaries expanded."""
    import pyarrow as pa
    import pyarrow.compute as pc

    size = 0
    for column in batch.columns:
        size += column.nbytes
        if isinstance(column, pa.DictionaryArray) and pa.types.is_large_string(column.dictionary.type) | pa.types.is_string(
            column.dictionary.type
        ):
            size += pc.sum(pc.take(pc.binary_length(column.dictionary), column.indices)).as_py() or 0
    return size


def _rows_of(batch: pa.RecordBatch | pa.Table, names: Mapping[str, Sequence[str]]) -> Iterator[Row | RowFailure]:
    """Yield the rows of a batch as Python values. Text that is not UTF-8 and times outside Python's range fail their row."""
    try:
        rows: list[Row | RowFailure] = batch.to_pylist()
    except (ValueError, OverflowError, KeyError, TypeError):
        rows = []
        for n in range(batch.num_rows):
            cells, failure = Row(), None
            for name in batch.schema.names:
                try:
                    cells[name] = batch.column(batch.schema.get_field_index(name)).slice(n, 1).to_pylist()[0]
                except (ValueError, OverflowError, KeyError, TypeError) as error:
                    failure = RowFailure(f"column {name[:40]}: cannot be read ({_first_line(error)})", "")
                    break
            rows.append(failure or cells)
    for row in rows:
        if isinstance(row, dict):
            for column, classes in names.items():
                if isinstance(row.get(column), int) and 0 <= row[column] < len(classes):
                    row[column] = classes[row[column]]
        yield row


def _class_names(schema: pa.Schema) -> dict[str, list[str]]:
    """Return the class names of each column that `datasets` stores as a number (its ClassLabel feature)."""
    # Looked at first, because importing datasets takes longer than reading a small file.
    if b"huggingface" not in (schema.metadata or {}):
        return {}
    from datasets import ClassLabel, Features

    try:
        features = Features.from_arrow_schema(schema)
    except (ValueError, TypeError, KeyError, AttributeError):  # metadata of another version, or made up
        return {}
    return {name: list(feature.names) for name, feature in features.items() if isinstance(feature, ClassLabel) and feature.names}


# Arrow and the Hub, through datasets


def read_arrow_file(path: Path) -> RawFile:
    """Open one .arrow file of a data set's cache or folder.

    Raises:
        ProjectError: it is not an Arrow file.
    """
    import pyarrow as pa
    from datasets import Dataset

    try:
        data = Dataset.from_file(str(path))
    except (pa.ArrowException, OSError, ValueError, KeyError, TypeError) as error:
        raise ProjectError(str(path), f"is not an Arrow file ({_first_line(error)})", "curate import --help") from error
    return RawFile(Detected("Arrow"), _dataset_rows({"": data}))


def is_arrow_folder(path: Path) -> bool:
    """Return whether a folder was written by `save_to_disk`."""
    return (path / "dataset_dict.json").is_file() or (path / "state.json").is_file()


def read_arrow_folder(path: Path) -> RawFile:
    """Open a folder of `Dataset.save_to_disk` or `DatasetDict.save_to_disk`; with several splits, each row has the column `split`.

    Raises:
        ProjectError: the folder is not one, or a file in it is missing or damaged.
    """
    if not is_arrow_folder(path):
        raise ProjectError(str(path), "is not a folder of Dataset.save_to_disk (it has no state.json or dataset_dict.json)", "name a file")
    import pyarrow as pa
    from datasets import DatasetDict, load_from_disk

    try:
        data = load_from_disk(str(path))
    except (pa.ArrowException, OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ProjectError(str(path), f"cannot be read as a data set folder ({_first_line(error)})", "save it again") from error
    splits: dict[str, Any] = dict(data) if isinstance(data, DatasetDict) else {"": data}
    return RawFile(Detected("Arrow", splits=tuple(name for name in splits if name)), _dataset_rows(splits))


def read_hub(address: str) -> RawFile:
    """Stream a data set of the Hugging Face Hub: hf://OWNER/NAME, with optional /CONFIG, @REVISION and :SPLIT.

    Nothing is written except what `huggingface_hub` caches in the user's own cache (HF_HOME).

    Raises:
        ProjectError: the address is invalid, or the Hub cannot be reached or has no such data set.
    """
    found = re.fullmatch(r"hf://(?:datasets/)?([\w.-]+/[\w.-]+)(?:/([\w.-]+))?(?:@([\w./-]+))?(?::([\w.-]+))?", address)
    if found is None:
        raise ProjectError(
            address, "is not an address of a Hub data set", "write hf://OWNER/NAME, for example hf://OpenAssistant/oasst1:train"
        )
    name, config, revision, split = found.groups()
    from datasets import load_dataset
    from huggingface_hub import HfApi

    try:
        commit = str(HfApi().dataset_info(name, revision=revision).sha)
        # By commit, so that the rows are those of the revision that is recorded, even if the data set changes meanwhile.
        data = load_dataset(name, config, split=split, revision=commit, streaming=True)
        splits: dict[str, Any] = dict(data) if isinstance(data, dict) else {split or "": data}
        rows = _dataset_rows(splits if len(splits) > 1 else {"": next(iter(splits.values()))})
    # datasets and the hub raise any of these when a data set cannot be had.
    except (OSError, ValueError, RuntimeError, LookupError) as error:
        step = "check the name, the network and HF_HUB_OFFLINE; a private data set needs HF_TOKEN"
        raise ProjectError(address, f"cannot be read from the Hub ({_first_line(error)})", step) from error
    return RawFile(Detected("Hub", splits=tuple(name for name in splits if name), revision=commit), rows)


def _dataset_rows(splits: Mapping[str, Any]) -> Rows:
    """Yield the rows of each split in order; with several splits a row has the column `split`."""
    import pyarrow as pa

    number = 0
    for split, data in splits.items():
        names = _class_names(data.features.arrow_schema) if data.features else {}
        try:
            # As Arrow: images and sounds are not decoded, which would need packages of their own.
            for batch in data.with_format("arrow").iter(batch_size=_BATCH):
                for row in _rows_of(batch, names):
                    number += 1
                    yield number, ({**row, "split": row.get("split", split)} if split and isinstance(row, dict) else row)
        except (pa.ArrowException, OSError) as error:
            yield number + 1, RowFailure(f"the rest of split {split or 'train'} cannot be read ({_first_line(error)})", "")


# Excel


def read_excel(path: Path, how: ReadAs) -> RawFile:
    """Open the named sheet, or the first one with rows; the first row that is not empty names the columns.

    Raises:
        ProjectError: it is not a workbook, is protected by a password, has no such sheet, or expands to far more than its size.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            inside = sum(entry.file_size for entry in archive.infolist())
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise ProjectError(str(path), f"is not an .xlsx file ({_first_line(error)})", "save it as .xlsx or .csv") from error
    if inside > max(_FREE_BYTES, 100 * path.stat().st_size):
        raise ProjectError(str(path), f"expands to {inside:,} bytes", "save it as .csv")
    from python_calamine import CalamineError, CalamineWorkbook, PasswordError

    try:
        book = CalamineWorkbook.from_path(str(path))
        sheets = {name: book.get_sheet_by_name(name) for name in book.sheet_names if not how.sheet or name == how.sheet}
    except PasswordError as error:
        raise ProjectError(str(path), "is protected by a password", "save it without one") from error
    except (CalamineError, OSError, ValueError) as error:
        raise ProjectError(str(path), f"is not an .xlsx file ({_first_line(error)})", "save it as .xlsx or .csv") from error
    if not sheets:
        raise ProjectError(
            f"--sheet {how.sheet}", f"{path.name} has no such sheet; it has {', '.join(book.sheet_names)}", "name one of them"
        )
    filled = [name for name, sheet in sheets.items() if sheet.height > 1 or (sheet.height and not how.header)]
    if not filled:
        raise ProjectError(str(path), "has no rows below its header", "name another sheet with --sheet")
    detected = Detected("Excel", sheet=filled[0], other_sheets=tuple(filled[1:]))
    return RawFile(detected, _sheet_rows(path, sheets[filled[0]], has_header=how.header))


def _sheet_rows(path: Path, sheet: Any, *, has_header: bool) -> Rows:
    header: list[str] | None = None
    for number, cells in enumerate(sheet.iter_rows(), start=1):
        values = [_cell(cell) for cell in cells]
        if not any(value is not None for value in values):
            continue
        if header is None:
            names = ["" if value is None else str(value) for value in values]
            header = header_of(path, names) if has_header else [str(n) for n in range(1, len(values) + 1)]
            if has_header:
                continue
        yield number, named_cells(header, values)


def _cell(value: Any) -> Any:
    """Return a cell as text, a number or a truth value; whole numbers, which Excel stores as decimals, as integers."""
    if isinstance(value, str):
        return value or None
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        return int(value)
    return value if isinstance(value, bool | int | float) else (value.isoformat() if hasattr(value, "isoformat") else str(value))


def _first_line(error: BaseException) -> str:
    """Return the first line of a library's error, at most 200 characters."""
    text = str(error).strip()
    return text.splitlines()[0][:200] if text else type(error).__name__
