"""The records of a dataset as arrays of numbers in memory. Sets of records are bitmaps with one element per record number.

They are cached, because the page's most frequent search (records that a user has not answered) reads nearly all of them. Every dataset
has a generation: `changed` counts writes and `epoch` counts deletions. A process reads only new rows while the epoch stays the same, and
all rows after a deletion.
"""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import blake2b
from typing import Any

import numpy as np
from numpy.typing import NDArray

PRIME = 2_147_483_647
Numbers = NDArray[np.int64]
Bitmap = NDArray[np.bool_]
"""A set of records: True at the `seq` of each."""


@dataclass(frozen=True)
class Rows:
    """The records of a dataset at one moment, in order of insertion."""

    seqs: Numbers
    shuffles: Numbers
    """A fixed number per record, from which the order of each user is computed."""
    changed: int = 0
    epoch: int = 0

    @property
    def size(self) -> int:
        """The length of bitmaps."""
        return int(self.seqs[-1]) + 1 if len(self.seqs) else 0

    @cached_property
    def everything(self) -> Bitmap:
        """All records; must not be modified."""
        return self.bitmap(self.seqs)

    def bitmap(self, seqs: Numbers) -> Bitmap:
        """Return the set of these records."""
        # A damaged file may name records that it does not contain.
        found = np.zeros(self.size, dtype=bool)
        found[seqs[seqs < self.size]] = True
        return found

    def order_for(self, user: str, among: Bitmap) -> tuple[Numbers, Numbers]:
        """Return the sort keys of these records in the user's own order, and the records."""
        digest = blake2b(user.encode(), digest_size=16).digest()
        a, b, c, d = (int.from_bytes(digest[n : n + 4]) % PRIME for n in range(0, 16, 4))
        chosen = among[self.seqs]
        # Two rounds of a quadratic hash modulo a prime; no intermediate value exceeds 62 bits.
        once = (self.shuffles[chosen] * a + b) % PRIME
        return (once * once % PRIME * c + d) % PRIME, self.seqs[chosen]


class RowCache:
    """The rows of each dataset that this process has read."""

    def __init__(self) -> None:
        self._rows: dict[int, Rows] = {}
        self._lock = threading.Lock()

    def load(self, db: sqlite3.Connection, dataset: int) -> Rows:
        """Return the rows as this transaction sees them."""
        changed, epoch = read_generation(db, str(dataset))
        with self._lock:
            held = self._rows.get(dataset)
            if held is not None and (held.changed, held.epoch) == (changed, epoch):
                return held
            if held is None or held.epoch != epoch or held.changed > changed:
                # A transaction older than the cached rows reads everything: it must not see later records.
                held = Rows(np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64))
            sql = "SELECT seq AS n, shuffle AS m FROM records WHERE dataset = ? AND seq >= ? ORDER BY seq"
            seqs, shuffles = read_pairs(db, sql, [dataset, held.size])
            rows = Rows(np.concatenate((held.seqs, seqs)), np.concatenate((held.shuffles, shuffles)), changed, epoch)
            self._rows[dataset] = rows
            return rows

    def forget(self, dataset: int) -> None:
        """Remove a deleted dataset from the cache."""
        with self._lock:
            self._rows.pop(dataset, None)


def select_page(keys: NDArray[Any], seqs: Numbers, *, offset: int, limit: int) -> NDArray[np.intp]:
    """Return the positions of a page's records in the order of their keys; ties are ordered by record number.

    Args:
        keys: sort keys of shape (n,).
        seqs: record numbers of shape (n,).
        offset: number of records before the page.
        limit: maximum number of records.
    """
    end = min(offset + limit, len(keys))
    # `partition` avoids sorting all records. Ties with the last record are kept, so that the record number decides between them.
    near = np.flatnonzero(keys <= np.partition(keys, end - 1)[end - 1]) if 0 < end < len(keys) else np.arange(len(keys))
    ordered: NDArray[np.intp] = near[np.lexsort((seqs[near], keys[near]))[offset:end]]
    return ordered


def read_numbers(db: sqlite3.Connection, sql: str, values: Sequence[Any]) -> Numbers:
    """Return the column `n` of a query in its order.

    The numbers arrive as one text, which is parsed several times faster than as many rows and needs the interpreter lock once instead of at
    every row.

    Args:
        db: a connection inside a read transaction.
        sql: a query; an ordered one needs a LIMIT, or SQLite ignores its order.
        values: values of the parameters.
    """
    (joined,) = db.execute(f"SELECT group_concat(n) FROM ({sql})", values).fetchone()
    return _numbers(joined)


def read_pairs(db: sqlite3.Connection, sql: str, values: Sequence[Any]) -> tuple[Numbers, Numbers]:
    """Return the integer columns `n` and `m` of a query in its order.

    Args:
        db: a connection inside a read transaction.
        sql: a query without a LIMIT.
        values: values of the parameters.
    """
    joined = db.execute(f"SELECT group_concat(n), group_concat(m) FROM ({sql} LIMIT -1)", values).fetchone()
    return _numbers(joined[0]), _numbers(joined[1])


def read_groups(db: sqlite3.Connection, sql: str, values: Sequence[Any], *, descending: bool, limit: int) -> tuple[Numbers, Numbers]:
    """Return the column `n` of a query ordered by its column `value`, and the rank of each value.

    Args:
        db: a connection inside a read transaction.
        sql: a query with the columns `n` and `value`.
        values: values of the parameters.
        descending: largest values first.
        limit: maximum number of distinct values; below zero for all.
    """
    order = f"GROUP BY value ORDER BY value {'DESC' if descending else 'ASC'} LIMIT {limit}"
    grouped = f"SELECT group_concat(n) AS ns FROM ({sql}) {order}"
    (joined,) = db.execute(f"SELECT group_concat(ns, ';') FROM ({grouped})", values).fetchone()
    if not joined:
        return _numbers(None), _numbers(None)
    letters = np.frombuffer(joined.encode(), dtype=np.uint8)
    after_new_value = letters[(letters == ord(",")) | (letters == ord(";"))] == ord(";")
    return _numbers(joined.replace(";", ",")), np.append(0, np.cumsum(after_new_value))


def read_ids(db: sqlite3.Connection, seqs: Numbers) -> list[str]:
    """Return the ids of records in the given order."""
    sql = "SELECT json_group_array(id) FROM (SELECT r.id FROM json_each(?) j CROSS JOIN records r ON r.seq = j.value ORDER BY j.key)"
    return list(json.loads(db.execute(sql, (json.dumps(seqs.tolist()),)).fetchone()[0]))


def read_generation(db: sqlite3.Connection, name: str) -> tuple[int, int]:
    """Return the generation of a dataset or a vector: the number of its writes and of its deletions."""
    row = db.execute("SELECT changed, epoch FROM generations WHERE name = ?", (name,)).fetchone()
    return (int(row[0]), int(row[1])) if row else (0, 0)


def raise_generation(db: sqlite3.Connection, name: str, what: str) -> int:
    """Count a write or a deletion and return the new number.

    Args:
        db: a connection inside a write transaction.
        name: a dataset's number or a vector's name.
        what: `changed` for a write, `epoch` for a deletion.
    """
    db.execute("INSERT OR IGNORE INTO generations VALUES (?, 0, 0)", (name,))
    db.execute(f"UPDATE generations SET {what} = {what} + 1 WHERE name = ?", (name,))
    return int(db.execute(f"SELECT {what} FROM generations WHERE name = ?", (name,)).fetchone()[0])


def _numbers(joined: str | None) -> Numbers:
    return np.fromstring(joined, dtype=np.int64, sep=",") if joined else np.empty(0, dtype=np.int64)
