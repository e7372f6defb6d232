"""The batches of a workbench's calls: what was sent together, under which id, and which results are stored."""

from __future__ import annotations

import sqlite3
import zlib
from collections.abc import Callable, Sequence

from curation.requests import OpenBatch

BatchLine = tuple[str, bytes | None, int | None, str, str]
"""One line of a batch's results: key, the message where the request succeeded, else status, reason and detail."""


class CallBatches:
    """The open and ended batches of one ledger."""

    def __init__(self, connection: sqlite3.Connection, *, now: Callable[[], float]) -> None:
        self._db, self._now = connection, now

    def name(self, number: int, batch_id: str) -> None:
        """Store the provider's id of a batch; called before its first poll."""
        self._db.execute("UPDATE call_batches SET batch_id = ? WHERE id = ?", (batch_id, number))

    def open(self, *, model: str, simulated: bool) -> list[OpenBatch]:
        """Return the batches to wait for; one without an id is listed once the process that was sending it has ended."""
        rows = self._db.execute(
            "SELECT id, batch_id, requests, created FROM call_batches WHERE ended IS NULL AND model = ? AND simulated = ? "
            "AND (batch_id IS NOT NULL OR owner NOT IN (SELECT id FROM call_owners)) ORDER BY id",
            (model, simulated),
        )
        return [OpenBatch(*row) for row in rows]

    def left_behind(self, models: Sequence[str]) -> list[tuple[str, int]]:
        """Return (model, calls) of open batches of models that are not listed, which nobody will fetch."""
        rows = self._db.execute("SELECT model, SUM(requests) FROM call_batches WHERE ended IS NULL GROUP BY model ORDER BY model")
        return [(model, calls) for model, calls in rows if model not in models]

    def known_ids(self) -> set[str]:
        """Return the provider's ids of all batches."""
        return {row[0] for row in self._db.execute("SELECT batch_id FROM call_batches WHERE batch_id IS NOT NULL")}

    def waiting(self, number: int) -> dict[str, int]:
        """Return key to number of the calls of a batch without a stored result."""
        rows = self._db.execute("SELECT key, seq FROM calls WHERE batch = ? AND state = 'sent'", (number,))
        return {key.hex(): seq for key, seq in rows}

    def keep(self, number: int, results: Sequence[BatchLine]) -> int:
        """Write results as they came, those not kept before; returns how many were new. Call it inside a transaction."""
        new = 0
        for key, raw, status, reason, detail in results:
            where = (number, bytes.fromhex(key))
            # An answered call stays in its batch, whose price differs; a failed one leaves it and can be claimed again.
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
        """End a batch whose results are read; calls without a result become uncertain and are charged. Return how many those are."""
        missing = self._db.execute(
            "UPDATE calls SET state = 'uncertain', lost = lost + 1, lost_nano = lost_nano + held_nano, held_nano = 0, batch = NULL "
            "WHERE batch = ? AND state = 'sent'",
            (number,),
        ).rowcount
        self._db.execute("UPDATE call_batches SET ended = ? WHERE id = ?", (self._now(), number))
        return missing

    def undo(self, number: int, *, status: int | None, reason: str, detail: str) -> None:
        """Fail the calls of a batch that the provider does not have, at no cost; they may be sent again. Call it inside a transaction.

        Args:
            number: number of the batch.
            status: HTTP status of the refusal, if there was one.
            reason: short code that groups failures.
            detail: the provider's message.
        """
        self._db.execute(
            "UPDATE calls SET state = 'failed', status = ?, reason = ?, detail = ?, held_nano = 0, batch = NULL "
            "WHERE batch = ? AND state = 'sent'",
            (status, reason, detail, number),
        )
        self._db.execute("UPDATE call_batches SET ended = ? WHERE id = ?", (self._now(), number))
