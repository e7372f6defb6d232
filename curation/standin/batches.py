"""Message Batches of the stand-in, kept as files in the log folder: a batch outlives the server as a real one outlives the client."""

from __future__ import annotations

import json
import random
import re
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from curation.standin.protocol import Refused


@dataclass(frozen=True)
class Batches:
    """Batches in a folder."""

    folder: Path
    seconds: float
    """How long a batch takes."""

    def create(self, value: Any, *, now: float) -> dict[str, Any]:
        """Take a batch in; its requests are checked only when they are answered, as the API does."""
        requests = value.get("requests") if isinstance(value, dict) else None
        if not isinstance(requests, list) or not requests:
            raise Refused(400, "requests: at least one request is required")
        ids = [r.get("custom_id") if isinstance(r, dict) else None for r in requests]
        if any(not isinstance(i, str) or not re.fullmatch(r"[a-zA-Z0-9_-]{1,64}", i) for i in ids):
            raise Refused(400, "requests: custom_id must match ^[a-zA-Z0-9_-]{1,64}$")
        if len(set(ids)) < len(ids):
            raise Refused(400, "requests: custom_id must be unique")
        if len(requests) > 100_000:
            raise Refused(413, "requests: at most 100000")
        self.folder.mkdir(parents=True, exist_ok=True)
        id_ = f"msgbatch_offline_{time.time_ns():x}{random.getrandbits(16):04x}"
        self._write(id_, {"id": id_, "created": now, "canceled": None, "requests": requests})
        return self.describe(id_, now=now)

    def describe(self, id_: str, *, now: float, counts: dict[str, int] | None = None) -> dict[str, Any]:
        """The batch object of the API."""
        batch = self.read(id_)
        ended, canceled = self.ended(batch, now), batch["canceled"]
        total = len(batch["requests"])
        tally = dict.fromkeys(("processing", "succeeded", "errored", "canceled", "expired"), 0)
        tally.update(counts or {"succeeded": total} if ended else {"processing": total})
        return {
            "id": id_,
            "type": "message_batch",
            "processing_status": "ended" if ended else "canceling" if canceled else "in_progress",
            "request_counts": tally,
            "created_at": _iso(batch["created"]),
            "expires_at": _iso(batch["created"] + timedelta(days=1).total_seconds()),
            "ended_at": _iso(batch["created"] + self.seconds) if ended else None,
            "archived_at": None,
            "cancel_initiated_at": _iso(canceled) if canceled else None,
            "results_url": f"/v1/messages/batches/{id_}/results" if ended else None,
        }

    def list(self) -> list[str]:
        """All batch ids, newest first."""
        return sorted((path.stem for path in self.folder.glob("msgbatch_*.json")), reverse=True)

    def cancel(self, id_: str, *, now: float) -> None:
        """Ask for an end; what is not done by then is canceled."""
        batch = self.read(id_)
        if not self.ended(batch, now) and batch["canceled"] is None:
            self._write(id_, {**batch, "canceled": now})

    def read(self, id_: str) -> dict[str, Any]:
        """A batch as it was taken in."""
        path = self.folder / f"{id_}.json"
        if not re.fullmatch(r"msgbatch_offline_[0-9a-f]+", id_) or not path.is_file():
            raise Refused(404, f"batch {id_} not found")
        value: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return value

    def ended(self, batch: dict[str, Any], now: float) -> bool:
        """Whether the batch is through: after its time, or half a second after it was canceled."""
        return now >= batch["created"] + self.seconds or (batch["canceled"] is not None and now >= batch["canceled"] + 0.5)

    def _write(self, id_: str, value: dict[str, Any]) -> None:
        aside = self.folder / f"{id_}.part"
        aside.write_text(json.dumps(value), encoding="utf-8")
        aside.replace(self.folder / f"{id_}.json")


def _iso(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat().replace("+00:00", "Z")
