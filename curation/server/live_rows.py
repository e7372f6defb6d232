"""The table of rows as the service holds it: built in the background, and again when the project changes."""

from __future__ import annotations

import threading
from pathlib import Path

from curation.store import runs
from curation.store.database import open_store
from curation.views.row_table import RowTable, load_table
from curation.views.state import ProjectState
from curation.workspace import open_workspace


class LiveRows:
    """The latest table of a project.

    While a new table is built, queries get the last one; the first query waits for the first table.

    Args:
        folder: of the project.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._table: RowTable | None = None
        self._state = ""
        self._building = threading.Lock()

    def version(self) -> str:
        """Return a text that changes with every run, override, answer and snapshot of the project."""
        with open_store(self.folder) as db:
            return runs.state_version(db)

    def table(self, *, fresh: bool = False) -> RowTable:
        """Return the table.

        Args:
            fresh: wait until it holds everything that is stored now.
        """
        version = self.version()
        table = self._table
        if table is None or (version != self._state and fresh):
            with self._building:
                if self._table is None or self._state != version:
                    self._build()
                table = self._table
        elif version != self._state and self._building.acquire(blocking=False):
            threading.Thread(target=self._build_and_release, daemon=True).start()
        assert table is not None
        return table

    def is_current(self) -> bool:
        """Return whether the table holds everything that is stored now."""
        return self._table is not None and self._state == self.version()

    def _build(self) -> None:
        with open_workspace(self.folder) as workspace:
            version = runs.state_version(workspace.db)  # read first: a change meanwhile builds the table again
            table = RowTable(load_table(ProjectState(workspace)))
        self._table, self._state = table, version

    def _build_and_release(self) -> None:
        try:
            self._build()
        finally:
            self._building.release()
