"""Read the rows of a snapshot, from bytes that are what its manifest names."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING

from curation.errors import SnapshotError, command
from curation.snapshot.manifest import Manifest, Split, read_manifest
from curation.snapshot.write import schema_of

if TYPE_CHECKING:
    import pyarrow as pa


def read_split(path: Path, split: Split, *, manifest: Manifest | None = None) -> pa.Table:
    """One split's rows, from bytes whose sha256 is the manifest's; a split without a file has no rows."""
    import hashlib

    import pyarrow as pa
    import pyarrow.parquet as pq

    manifest = manifest or read_manifest(path)
    if split not in manifest.splits:
        return schema_of(manifest.kind).empty_table()
    file = path / manifest.splits[split].file
    body = file.read_bytes() if file.is_file() else b""
    if hashlib.sha256(body).hexdigest() != manifest.files.get(file.name):
        raise SnapshotError(str(file), "is not the file the manifest names", command("curate", "verify", path))
    try:
        # pyarrow 26 aborts about one process in ten at exit when its thread pool has only just been used on a small buffer.
        return pq.read_table(io.BytesIO(body), use_threads=False, pre_buffer=False)
    except (pa.ArrowInvalid, OSError) as error:
        raise SnapshotError(str(file), f"is no Parquet file ({error})", command("curate", "verify", path)) from error
