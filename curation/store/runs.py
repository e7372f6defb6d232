"""Runs: each time a stage worked, with the digest of all that shaped its result."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from argilla_setup.shown import mask_values
from curation.store import records


@dataclass
class Run:
    """A stage at work; the stage fills in what it counted before the run closes."""

    number: int
    stage: str
    rows_in: int = 0
    rows_out: int = 0
    detail: dict[str, Any] = field(default_factory=dict)


@contextmanager
def record_run(db: sqlite3.Connection, stage: str, digest: str = "") -> Iterator[Run]:
    """Open a run and close it as done, or as failed when the stage raises. Facts of runs that are not done are invisible."""
    watermark = db.execute("SELECT coalesce(max(seq), 0) AS n FROM records").fetchone()["n"]
    cursor = db.execute(
        "INSERT INTO runs (stage, digest, watermark, started, state) VALUES (?, ?, ?, ?, 'running')",
        (stage, digest, watermark, datetime.now(UTC).isoformat(timespec="seconds")),
    )
    run, start = Run(int(cursor.lastrowid or 0), stage), time.monotonic()
    state = "failed"
    try:
        yield run
        state = "done"
    finally:
        db.execute(
            "UPDATE runs SET ended = ?, state = ?, rows_in = ?, rows_out = ?, seconds = ?, detail = ? WHERE run = ?",
            (
                datetime.now(UTC).isoformat(timespec="seconds"),
                state,
                run.rows_in,
                run.rows_out,
                round(time.monotonic() - start, 3),
                json.dumps(mask_values(run.detail), ensure_ascii=False),
                run.number,
            ),
        )


def latest_run(db: sqlite3.Connection, stage: str) -> sqlite3.Row | None:
    """The latest finished run of a stage."""
    row: sqlite3.Row | None = db.execute(
        "SELECT * FROM runs WHERE stage = ? AND state = 'done' ORDER BY run DESC LIMIT 1", (stage,)
    ).fetchone()
    return row


def list_runs(db: sqlite3.Connection, stage: str | None = None, *, most: int = -1) -> list[dict[str, Any]]:
    """Every run (of a stage), or the latest of them, oldest first, its detail read."""
    sql = "SELECT * FROM runs WHERE stage = ? OR ? IS NULL ORDER BY run DESC LIMIT ?"
    rows = [dict(row) for row in db.execute(sql, (stage, stage, most))]
    return [{**row, "detail": json.loads(row["detail"] or "{}")} for row in reversed(rows)]


def last_runs(db: sqlite3.Connection) -> dict[str, dict[str, Any]]:
    """Stage to its last run, finished or not, in the order in which they ran."""
    sql = "SELECT * FROM runs WHERE run IN (SELECT max(run) FROM runs GROUP BY stage) ORDER BY run"
    return {row["stage"]: dict(row) for row in db.execute(sql)}


def latest_numbers(db: sqlite3.Connection) -> dict[str, int]:
    """Stage to the number of its latest finished run."""
    return {row["stage"]: row["n"] for row in db.execute("SELECT stage, max(run) AS n FROM runs WHERE state = 'done' GROUP BY stage")}


def latest_with_rows(db: sqlite3.Connection, stages: tuple[str, ...]) -> int:
    """The number of the latest finished run of these stages that brought any row; 0 where none did."""
    marks = ", ".join("?" for _ in stages)
    sql = f"SELECT max(run) AS n FROM runs WHERE stage IN ({marks}) AND state = 'done' AND rows_out > 0"
    return int(db.execute(sql, stages).fetchone()["n"] or 0)


def forget_details(db: sqlite3.Connection, stages: tuple[str, ...]) -> int:
    """Take what runs of these stages kept of texts; how many held any. The runs themselves stay in the record."""
    marks = ", ".join("?" for _ in stages)
    return db.execute(f"UPDATE runs SET detail = '{{}}' WHERE stage IN ({marks}) AND detail <> '{{}}'", stages).rowcount


def is_current(db: sqlite3.Connection, stage: str, digest: str) -> bool:
    """Whether the latest finished run of a set-wide stage still describes the records as they are."""
    row = latest_run(db, stage)
    watermark = db.execute("SELECT coalesce(max(seq), 0) AS n FROM records").fetchone()["n"]
    is_same = row is not None and row["digest"] == digest and row["watermark"] == watermark
    # A candidate of a pair that is imported as a row of its own has no new seq.
    return is_same and row is not None and not records.count_new_rows(db, row["run"], row["watermark"])


def forget_earlier(db: sqlite3.Connection, stage: str, *, than: int, idle: bool) -> None:
    """Let the earlier runs of a stage go that only looked (with `idle`: those that brought nothing); one who looks every minute makes
    half a million in a year, and no fact hangs on any of them."""
    sql = "DELETE FROM runs WHERE stage = ? AND state <> 'running' AND run < ?"
    db.execute(f"{sql} AND rows_out = 0" if idle else sql, (stage, than))
