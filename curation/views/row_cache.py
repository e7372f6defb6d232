"""A private copy of the table of rows, so that a large project builds it once and not for each `curate rows` or start of the service.

The copy is PROJECT/serve/rows.parquet (0600). It names the version of the project that it was built from; another version builds it again.
`curate erase` deletes it.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from curation.store import runs
from curation.store.database import open_store
from curation.store.service import SERVICE_FOLDER, service_folder
from curation.views.row_table import COLUMNS, load_table
from curation.views.state import ProjectState

if TYPE_CHECKING:
    import pyarrow as pa

LEAST_ROWS = 20_000
"""Rows from which a copy is kept; fewer are read from the workbench in less than a second."""
KEY = b"seedcorn.version"
LAYOUT = 1
"""Counts up when `load_table` fills a column otherwise."""


def rows_version(folder: Path) -> str:
    """Return a text that changes with every run, override, answer, snapshot and setting of the project."""
    with open_store(folder) as db:
        return f"{runs.state_version(db)}/{_settings_version(folder)}"


def load_rows(state: ProjectState) -> pa.Table:
    """Return the table of a project's rows, from the copy where it is current.

    Args:
        state: of the project, which is loaded only where the table must be built.
    """
    import pyarrow.parquet as pq

    folder = state.workspace.folder
    file, version = folder / SERVICE_FOLDER / "rows.parquet", rows_version(folder)
    made_by = f"{version}/{importlib.metadata.version('seedcorn')}/{LAYOUT}/{','.join(COLUMNS)}".encode()
    with suppress(OSError, ValueError):  # no copy, or one that a crash of the machine damaged (ArrowInvalid is a ValueError)
        if (pq.read_schema(file).metadata or {}).get(KEY) == made_by:
            return pq.read_table(file, use_threads=False)
    table = load_table(state)
    if table.num_rows >= LEAST_ROWS:
        with suppress(OSError):  # a full disk or a folder that cannot be written: the copy only saves time
            aside = service_folder(folder) / f"rows.{os.getpid()}.part"
            os.close(os.open(aside, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600))
            try:
                pq.write_table(table.replace_schema_metadata({KEY: made_by}), aside, compression="zstd")
                aside.replace(file)
                if rows_version(folder) != version:  # perhaps a row was erased meanwhile
                    file.unlink(missing_ok=True)
            finally:
                aside.unlink(missing_ok=True)
    return table


def _settings_version(folder: Path) -> str:
    """Return a digest of project.yaml; empty where it cannot be read, which the next query reports."""
    try:
        return hashlib.sha256((folder / "project.yaml").read_bytes()).hexdigest()[:16]
    except OSError:
        return ""
