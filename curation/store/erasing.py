"""Taking a record's text out for good. Ids, numbers and verdicts of others stay; what was asked and answered stays with the calls."""

from __future__ import annotations

import json
import sqlite3
from datetime import UTC, datetime

from curation.records import load_record

ERASED = "[erased]"
"""Stands where a person's words stood."""
_WORDS = (
    "UPDATE origins SET raw = NULL, meta = NULL WHERE seq = :seq",
    "UPDATE scores SET rationale = '' WHERE seq = :seq",
    "UPDATE choices SET rationale = '' WHERE seq = :seq",
    "UPDATE findings SET evidence = '' WHERE seq = :seq",
    "DELETE FROM verdicts WHERE seq = :seq",
)
"""What quotes a record, beside its body."""


def erase(db: sqlite3.Connection, seq: int, reason: str, *, vector_key: bytes) -> bool:
    """Take the body and the raw fields, a pair's rivals with them, and what was said of them in words (rationales, evidence, texts that
    people wrote or were shown); the ids, the numbers and a tombstone stay. Returns whether the text has left the disk already: while
    another process reads the workbench, its log is kept.
    """
    stamp = json.dumps({"reason": reason, "at": datetime.now(UTC).isoformat(timespec="seconds")})
    rivals = """
      SELECT DISTINCT c.seq FROM origins c JOIN origins p ON (c.how, c.source, c.item) = (p.how, p.source, p.item)
      WHERE p.seq = ? AND p.part = 0 AND c.part > 0 AND NOT EXISTS (SELECT 1 FROM origins r WHERE r.seq = c.seq AND r.role = 'row')"""
    with db:
        db.execute("BEGIN IMMEDIATE")
        for gone in (seq, *(row["seq"] for row in db.execute(rivals, (seq,)).fetchall())):
            _forget_answers(db, gone)
            for statement in _WORDS:
                db.execute(statement, {"seq": gone})
            db.execute("UPDATE records SET body = NULL, label = NULL, erased = ? WHERE seq = ?", (stamp, gone))
        db.execute("DELETE FROM vectors WHERE text = ?", (vector_key,))
        db.execute("UPDATE runs SET detail = json_remove(detail, '$.alarms') WHERE stage = 'dedup' AND detail <> '{}'")  # they quote rows
    waited = db.execute("PRAGMA busy_timeout").fetchone()[0]
    db.execute("PRAGMA busy_timeout = 1000")
    busy = db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]  # or the old pages would lie on in the log
    db.execute(f"PRAGMA busy_timeout = {waited}")
    return not busy


def _forget_answers(db: sqlite3.Connection, seq: int) -> None:
    """Take what people wrote on a record, but for a change that lives on as a record of its own; and the record's own text out of
    the answer that it was made by."""
    body = db.execute("SELECT body FROM records WHERE seq = ?", (seq,)).fetchone()["body"]
    record = load_record(body) if body else None
    own = record.completion.content.strip() if record is not None and record.kind == "instruction" else None
    living = "SELECT o.source FROM origins o JOIN records r USING (seq) WHERE o.how = 'edited' AND o.parent = :seq AND r.erased IS NULL"
    made_by = "SELECT source FROM origins WHERE seq = :seq AND how = 'edited'"
    sql = f"""SELECT *, seq = :seq AND response NOT IN ({living}) AS on_it FROM answers
      WHERE seq = :seq OR response IN ({made_by})"""
    for row in db.execute(sql, {"seq": seq}).fetchall():
        values = json.loads(row["body"])
        if row["on_it"] or str(values.get("edited_completion") or "").strip() == own:
            values |= {name: ERASED for name in ("edited_completion", "comment") if values.get(name)}
            kept = json.dumps(values, ensure_ascii=False, sort_keys=True)
            db.execute("UPDATE answers SET body = ? WHERE response = ? AND updated = ?", (kept, row["response"], row["updated"]))
