"""The number of answers after which a record is complete: that of its dataset, unless the record's hidden metadata says otherwise.

A control record is never complete, so that everybody answers it. A record some of whose answers do not count needs more of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from argilla_server.contexts import distribution
from argilla_server.enums import RecordStatus

from argilla_setup.forms import CONTROL, NEEDED


def answers_needed(metadata: Mapping[str, Any] | None, overlap: int) -> float:
    """Return how many submitted answers complete a record.

    Args:
        metadata: of the record.
        overlap: answers that records of the dataset need.
    """
    values = metadata or {}
    needed = values.get(NEEDED)
    return float("inf") if values.get(CONTROL) is not None else max(overlap, needed) if isinstance(needed, int | float) else overlap


def apply_to_statuses() -> None:
    """Make argilla-server compute statuses by `answers_needed`."""

    async def update(db: Any, record: Any) -> Any:
        needed = answers_needed(record.metadata_, record.dataset.distribution["min_submitted"])
        record.status = RecordStatus.completed if len(record.responses_submitted) >= needed else RecordStatus.pending
        return await record.save(db, autocommit=False)

    distribution._update_record_status_with_overlap_strategy = update
