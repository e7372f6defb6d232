"""The latest decision of a data lead on each record, as columns: one command may decide a million rows."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator

import numpy as np

from curation.store.records import CLEAR, StoredOverride
from curation.store.rows import BySeq, Numbers

_PART = 8192


class Overrides(BySeq[StoredOverride]):
    """The latest override of each record that has one. Those that say the same have one code."""

    def __init__(self, seqs: Numbers, codes: Numbers, numbers: Numbers, few: list[StoredOverride]) -> None:
        """Hold overrides.

        Args:
            seqs: of the records, in order, each once.
            codes: for each record the place of its override among `few`.
            numbers: of the overrides.
            few: an override for each code.
        """
        super().__init__(seqs, codes)
        self.numbers = numbers
        self.few = few

    def made(self, start: int, stop: int) -> Iterator[StoredOverride]:
        """Return the overrides of a range of `seqs`."""
        each = zip(self.codes[start:stop].tolist(), self.seqs[start:stop].tolist(), self.numbers[start:stop].tolist(), strict=True)
        few = self.few
        return (StoredOverride(number, seq, *few[code][2:]) for code, seq, number in each)

    def where(self, wanted: Callable[[StoredOverride], bool]) -> Overrides:
        """Return the overrides of which a rule is true; it must read neither number nor seq."""
        mask = np.array([wanted(one) for one in self.few], np.bool_)[self.codes] if self.few else np.empty(0, np.bool_)
        return Overrides(self.seqs[mask], self.codes[mask], self.numbers[mask], self.few)


def load_overrides(db: sqlite3.Connection) -> Overrides:
    """Return the latest override of each record that has one."""
    sql = "SELECT override, seq, action, reason, by, at, choice, chosen FROM overrides ORDER BY override"
    cursor, places, parts = db.cursor(), dict[tuple[object, ...], int](), [np.empty((0, 3), np.int64)]
    cursor.row_factory = None
    cursor.execute(sql)
    while rows := cursor.fetchmany(_PART):
        parts.append(np.array([(row[0], row[1], places.setdefault(row[2:], len(places))) for row in rows], np.int64))
    found = np.concatenate(parts)
    few = [StoredOverride(0, 0, *values) for values in places]  # type: ignore[arg-type]
    # The last one of each record, in order of seq.
    found = found[np.lexsort((found[:, 0], found[:, 1]))]
    found = found[np.append(found[1:, 1] != found[:-1, 1], np.ones(min(len(found), 1), np.bool_))]
    made = Overrides(found[:, 1].copy(), found[:, 2].copy(), found[:, 0].copy(), few)
    return made.where(lambda one: one.action != CLEAR)
