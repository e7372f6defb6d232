"""Origins of all records, and the models that wrote them."""

from __future__ import annotations

import sqlite3
from collections import defaultdict
from collections.abc import Iterator
from typing import NamedTuple


class Made(NamedTuple):
    """One origin of a row."""

    seq: int
    how: str
    """imported, generated, paired or edited."""
    source: str
    parent: int | None


class Writer(NamedTuple):
    """A model that answered a call."""

    provider: str
    model: str
    simulated: bool


def list_made(db: sqlite3.Connection) -> Iterator[Made]:
    """Yield every origin of the rows, a record's first origin first."""
    for row in db.execute("SELECT seq, how, source, parent FROM origins WHERE role = 'row' ORDER BY origin"):
        yield Made(*row)


def writers_by_seq(db: sqlite3.Connection) -> dict[int, set[Writer]]:
    """Return the models that wrote each generated record; of a pair made of candidates, those that wrote the candidates."""
    calls = {
        row["key"].hex(): Writer(row["provider"], row["model"], bool(row["simulated"]))
        for row in db.execute("SELECT key, provider, model, simulated FROM calls WHERE stage = 'generate' ORDER BY simulated DESC")
    }
    found: defaultdict[int, set[Writer]] = defaultdict(set)
    unknown = Writer("", "an unknown model", False)
    for row in db.execute("SELECT seq, source FROM origins WHERE how = 'generated'"):
        found[row["seq"]].add(calls.get(row["source"], unknown))
    sql = """
      SELECT p.seq AS pair, c.seq AS candidate FROM origins p
      JOIN origins c ON c.how = 'paired' AND c.source = p.source AND c.part > 0 WHERE p.how = 'paired' AND p.part = 0"""
    for row in db.execute(sql).fetchall():
        found[row["pair"]] |= found.get(row["candidate"], set())
    return dict(found)
