"""Read the rows of a snapshot, from bytes whose sha256 is the manifest's."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING

from curation.errors import SnapshotError, command
from curation.snapshot.manifest import Manifest, Split, read_manifest
from curation.snapshot.write import schema_of

if TYPE_CHECKING:
    import pyarrow as pa


MOST_BYTES, MOST_FOLD = 256 * 1024**2, 200
"""Maximum size of a split in memory: this many bytes, or this multiple of the file's size if that is more. Real rows take 2 to 60
times the size of their file; a file of 159 kB that expands to 4 GB takes 25,000 times.
"""
_BATCH = 64


def read_split(path: Path, split: Split, *, manifest: Manifest | None = None) -> pa.Table:
    """Return one split's rows, parsed from bytes whose sha256 is the manifest's; a split without a file has no rows.

    Args:
        path: the snapshot's folder.
        split: the split.
        manifest: the manifest, if it was read already.

    Raises:
        SnapshotError: the file is not the one in the manifest, is not Parquet, or expands beyond any real rows.
    """
    import hashlib

    import pyarrow as pa

    manifest = manifest or read_manifest(path)
    if split not in manifest.splits:
        return schema_of(manifest.kind).empty_table()
    file = path / manifest.splits[split].file
    body = file.read_bytes() if file.is_file() else b""
    if hashlib.sha256(body).hexdigest() != manifest.files.get(file.name):
        raise SnapshotError(str(file), "is not the file the manifest names", command("curate", "verify", path))
    try:
        return _parse(body, most=max(MOST_BYTES, MOST_FOLD * len(body)))
    except _Expands as error:
        fact = f"expands to more than {error.most // 1024**2:,} MiB from {len(body):,} bytes; real rows never do"
        raise SnapshotError(str(file), fact, "copy it again from its source") from None
    except (pa.ArrowException, OSError) as error:
        raise SnapshotError(str(file), f"is not a Parquet file ({error})", command("curate", "verify", path)) from error


class _Expands(Exception):
    """File that takes more memory than any real rows of its size."""

    def __init__(self, most: int) -> None:
        self.most = most


def _parse(body: bytes, *, most: int) -> pa.Table:
    """Parse Parquet into at most `most` bytes of rows, a few rows at a time: one dictionary entry may be repeated without limit."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    # pyarrow 26 aborts about one process in ten at exit when its thread pool has only just been used on a small buffer.
    with pq.ParquetFile(io.BytesIO(body), pre_buffer=False) as file:
        meta = file.metadata
        if sum(meta.row_group(n).total_byte_size for n in range(meta.num_row_groups)) > most:
            raise _Expands(most)
        parts, taken = [file.schema_arrow.empty_table()], 0
        for group in range(meta.num_row_groups):
            batches = []
            for batch in file.iter_batches(batch_size=_BATCH, row_groups=[group], use_threads=False):
                taken += batch.nbytes
                if taken > most:
                    raise _Expands(most)
                batches.append(batch)
            parts.append(pa.Table.from_batches(batches, schema=file.schema_arrow).combine_chunks())
        return pa.concat_tables(parts)
