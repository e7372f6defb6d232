"""Calls that were sent together in a Message Batch. They belong to the batch and not to a process: whoever finds it ended reads it,
and reading it twice changes nothing.
"""

from __future__ import annotations

import sqlite3
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class OpenBatch:
    """A batch that has not been read yet."""

    number: int
    batch_id: str | None
    """The provider's id; None where a process died before it learnt it."""
    requests: int
    created: float


BatchLine = tuple[str, bytes | None, int | None, str, str]
"""One line of a batch's results: key, the message where the request succeeded, else status, reason and detail."""


class CallBatches:
    """The batches of one ledger."""

    def __init__(self, connection: sqlite3.Connection, *, now: Callable[[], float]) -> None:
        self._db, self._now = connection, now

    def name(self, number: int, batch_id: str) -> None:
        """Keep the provider's id; done before the first look at how far it is."""
        self._db.execute("UPDATE call_batches SET batch_id = ? WHERE id = ?", (batch_id, number))

    def open(self, *, model: str, simulated: bool) -> list[OpenBatch]:
        """Batches to wait for. One without an id is listed once the process that was sending it is gone."""
        rows = self._db.execute(
            "SELECT id, batch_id, requests, created FROM call_batches WHERE ended IS NULL AND model = ? AND simulated = ? "
            "AND (batch_id IS NOT NULL OR owner NOT IN (SELECT id FROM call_owners)) ORDER BY id",
            (model, simulated),
        )
        return [OpenBatch(*row) for row in rows]

    def left_behind(self, models: Sequence[str]) -> list[tuple[str, int]]:
        """(model, calls) of what waits in batches of models that are not named: nobody will fetch them."""
        rows = self._db.execute("SELECT model, SUM(requests) FROM call_batches WHERE ended IS NULL GROUP BY model ORDER BY model")
        return [(model, calls) for model, calls in rows if model not in models]

    def known_ids(self) -> set[str]:
        """Every id that a batch of ours has."""
        return {row[0] for row in self._db.execute("SELECT batch_id FROM call_batches WHERE batch_id IS NOT NULL")}

    def waiting(self, number: int) -> dict[str, int]:
        """Key to number of the calls whose result has not been kept."""
        rows = self._db.execute("SELECT key, seq FROM calls WHERE batch = ? AND state = 'sent'", (number,))
        return {key.hex(): seq for key, seq in rows}

    def keep(self, number: int, results: Sequence[BatchLine]) -> int:
        """Write results as they came, those not kept before; returns how many were new. Call it inside a transaction."""
        new = 0
        for key, raw, status, reason, detail in results:
            where = (number, bytes.fromhex(key))
            if raw is not None:
                changed = self._db.execute(
                    "UPDATE calls SET state = 'answered', status = 200, response = ?, ended = ?, reason = NULL, detail = NULL "
                    "WHERE batch = ? AND key = ? AND state = 'sent'",
                    (zlib.compress(raw), self._now(), *where),
                )
            else:
                changed = self._db.execute(
                    "UPDATE calls SET state = 'failed', status = ?, reason = ?, detail = ?, ended = ?, held_nano = 0, batch = NULL "
                    "WHERE batch = ? AND key = ? AND state = 'sent'",
                    (status, reason, detail, self._now(), *where),
                )
            new += changed.rowcount
        return new

    def end(self, number: int) -> int:
        """The results are read; calls that had none are uncertain and charged. Returns how many those are."""
        missing = self._db.execute(
            "UPDATE calls SET state = 'uncertain', lost = lost + 1, lost_nano = lost_nano + held_nano, held_nano = 0, batch = NULL "
            "WHERE batch = ? AND state = 'sent'",
            (number,),
        ).rowcount
        self._db.execute("UPDATE call_batches SET ended = ? WHERE id = ?", (self._now(), number))
        return missing

    def undo(self, number: int, *, status: int | None, reason: str, detail: str) -> None:
        """The provider has no such batch: its calls failed at no cost and may be asked again. Call it inside a transaction."""
        self._db.execute(
            "UPDATE calls SET state = 'failed', status = ?, reason = ?, detail = ?, held_nano = 0, batch = NULL "
            "WHERE batch = ? AND state = 'sent'",
            (status, reason, detail, number),
        )
        self._db.execute("UPDATE call_batches SET ended = ? WHERE id = ?", (self._now(), number))
