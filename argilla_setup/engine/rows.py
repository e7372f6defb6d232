"""The records of a dataset as numbers: sets of them are bitmaps, one place for each record, and so is the order that each person sees.

The numbers are kept in memory, since the page asks for nearly all of them each time: what has a person not answered yet? Writes are
numbered. A process reads the rows that were added since it last looked, and everything anew once rows have gone.
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
"""True at the `seq` of each record of a set."""


@dataclass(frozen=True)
class Rows:
    """A dataset's records at one moment, in the order of their coming."""

    seqs: Numbers
    shuffles: Numbers
    """A fixed number for each, from which every person's own order is made."""
    changed: int = 0
    epoch: int = 0

    @property
    def size(self) -> int:
        """The length of a bitmap."""
        return int(self.seqs[-1]) + 1 if len(self.seqs) else 0

    @cached_property
    def everything(self) -> Bitmap:
        """All records; not to be changed."""
        return self.bitmap(self.seqs)

    def bitmap(self, seqs: Numbers) -> Bitmap:
        """The set of these records; a damaged file may name some that it does not hold."""
        found = np.zeros(self.size, dtype=bool)
        found[seqs[seqs < self.size]] = True
        return found

    def order_for(self, user: str, among: Bitmap) -> tuple[Numbers, Numbers]:
        """The keys that put these records into this person's order, and the records."""
        digest = blake2b(user.encode(), digest_size=16).digest()
        a, b, c, d = (int.from_bytes(digest[n : n + 4]) % PRIME for n in range(0, 16, 4))
        chosen = among[self.seqs]
        # Two rounds of a quadratic hash modulo a prime; no value leaves 62 bits.
        once = (self.shuffles[chosen] * a + b) % PRIME
        return (once * once % PRIME * c + d) % PRIME, self.seqs[chosen]


class RowCache:
    """The rows of each dataset, as far as this process has read them."""

    def __init__(self) -> None:
        self._rows: dict[int, Rows] = {}
        self._lock = threading.Lock()

    def load(self, db: sqlite3.Connection, dataset: int) -> Rows:
        """The rows as this transaction sees them; what is read from the database with it fits them."""
        changed, epoch = read_generation(db, str(dataset))
        with self._lock:
            held = self._rows.get(dataset)
            if held is not None and (held.changed, held.epoch) == (changed, epoch):
                return held
            if held is None or held.epoch != epoch or held.changed > changed:
                # An older view than another thread's is read whole too: it must not see what came later.
                held = Rows(np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64))
            sql = "SELECT seq AS n, shuffle AS m FROM records WHERE dataset = ? AND seq >= ? ORDER BY seq"
            seqs, shuffles = read_pairs(db, sql, [dataset, held.size])
            rows = Rows(np.concatenate((held.seqs, seqs)), np.concatenate((held.shuffles, shuffles)), changed, epoch)
            self._rows[dataset] = rows
            return rows

    def forget(self, dataset: int) -> None:
        """Let go of a dataset that is no more."""
        with self._lock:
            self._rows.pop(dataset, None)


def first_of(keys: NDArray[Any], seqs: Numbers, *, offset: int, limit: int) -> NDArray[np.intp]:
    """Where the page's records stand when all are put in the order of the keys, then of the records."""
    end = min(offset + limit, len(keys))
    # All that tie with the page's last one stay, so that the cut is by the order of the records.
    near = np.flatnonzero(keys <= np.partition(keys, end - 1)[end - 1]) if 0 < end < len(keys) else np.arange(len(keys))
    ordered: NDArray[np.intp] = near[np.lexsort((seqs[near], keys[near]))[offset:end]]
    return ordered


def read_numbers(db: sqlite3.Connection, sql: str, values: Sequence[Any]) -> Numbers:
    """The column `n` of a question, in its order; a question that orders them says how many it wants.

    It comes as one value: a process that is busy elsewhere would have this thread wait for the interpreter at every row, and a long
    text of numbers is read several times faster than as many rows.
    """
    (joined,) = db.execute(f"SELECT group_concat(n) FROM ({sql})", values).fetchone()
    return _numbers(joined)


def read_pairs(db: sqlite3.Connection, sql: str, values: Sequence[Any]) -> tuple[Numbers, Numbers]:
    """The columns `n` and `m` of a question, in its order; whole numbers, since SQLite takes a microsecond to write another one."""
    joined = db.execute(f"SELECT group_concat(n), group_concat(m) FROM ({sql} LIMIT -1)", values).fetchone()
    return _numbers(joined[0]), _numbers(joined[1])


def read_groups(db: sqlite3.Connection, sql: str, values: Sequence[Any], *, descending: bool, limit: int) -> tuple[Numbers, Numbers]:
    """The column `n` of a question in the order of its column `value`, and beside each the number of its value; of so many values."""
    order = f"GROUP BY value ORDER BY value {'DESC' if descending else 'ASC'} LIMIT {limit}"
    grouped = f"SELECT group_concat(n) AS ns FROM ({sql}) {order}"
    (joined,) = db.execute(f"SELECT group_concat(ns, ';') FROM ({grouped})", values).fetchone()
    if not joined:
        return _numbers(None), _numbers(None)
    letters = np.frombuffer(joined.encode(), dtype=np.uint8)
    after_new_value = letters[(letters == ord(",")) | (letters == ord(";"))] == ord(";")
    return _numbers(joined.replace(";", ",")), np.append(0, np.cumsum(after_new_value))


def read_ids(db: sqlite3.Connection, seqs: Numbers) -> list[str]:
    """The ids of these records, in the order given."""
    sql = "SELECT json_group_array(id) FROM (SELECT r.id FROM json_each(?) j CROSS JOIN records r ON r.seq = j.value ORDER BY j.key)"
    return list(json.loads(db.execute(sql, (json.dumps(seqs.tolist()),)).fetchone()[0]))


def read_generation(db: sqlite3.Connection, name: str) -> tuple[int, int]:
    """The number of the last write to a dataset's records or to a vector, and of its last loss."""
    row = db.execute("SELECT changed, epoch FROM generations WHERE name = ?", (name,)).fetchone()
    return (int(row[0]), int(row[1])) if row else (0, 0)


def raise_generation(db: sqlite3.Connection, name: str, what: str) -> int:
    """Count a write, or with `epoch` a loss; the new number."""
    db.execute("INSERT OR IGNORE INTO generations VALUES (?, 0, 0)", (name,))
    db.execute(f"UPDATE generations SET {what} = {what} + 1 WHERE name = ?", (name,))
    return int(db.execute(f"SELECT {what} FROM generations WHERE name = ?", (name,)).fetchone()[0])


def _numbers(joined: str | None) -> Numbers:
    return np.fromstring(joined, dtype=np.int64, sep=",") if joined else np.empty(0, dtype=np.int64)
