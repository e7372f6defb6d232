"""Rows of the workbench as columns: a million take 70 MB and their bodies, where as objects they took a gigabyte.

A `Row` is made when it is looked at. What reads a field of every row takes its column.
"""

from __future__ import annotations

import sqlite3
from collections.abc import ItemsView, Iterable, Iterator, Mapping, Sequence, ValuesView
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from typing import Any, Final, overload

import numpy as np

from curation.records import KINDS, Kind
from curation.store.records import Row

Numbers = np.ndarray[Any, np.dtype[np.int64]]
Mask = np.ndarray[Any, np.dtype[np.bool_]]

_PART = 8192
"""Rows that are read, or made, at a time."""
_NONE: Final = -1
"""In a column of numbers: no value."""


@dataclass(frozen=True)
class Coded:
    """A column of few different values."""

    values: Sequence[Any]
    """The different values."""
    codes: np.ndarray[Any, np.dtype[np.int32]]
    """For each row the place of its value."""

    def __len__(self) -> int:
        return len(self.codes)

    def to_list(self) -> list[Any]:
        """Return the value of each row."""
        return list(map(self.values.__getitem__, self.codes.tolist()))

    def matches(self, value: object) -> Mask:
        """Return the rows that have a value."""
        return np.isin(self.codes, [place for place, known in enumerate(self.values) if known == value])


_CODED = ("kind", "label", "cell", "how", "seed_group")


@dataclass(frozen=True)
class _Columns:
    """The columns of all rows that were read together."""

    seqs: Numbers
    ids: bytes | bytearray
    """32 bytes for each row."""
    bodies: bytes | bytearray
    ends: Numbers
    """Start of the first body, then the end of each."""
    better: np.ndarray[Any, np.dtype[np.int8]]
    parent: Numbers
    coded: Mapping[str, Coded]


class _Builder:
    """Rows on the way to columns."""

    def __init__(self) -> None:
        self._ids, self._bodies = bytearray(), bytearray()
        self._seqs, self._sizes = list[Numbers](), list[Numbers]()
        self._better, self._parent = list[Numbers](), list[Numbers]()
        self._places: list[dict[Any, int]] = [{} for _ in _CODED]
        self._codes: list[list[np.ndarray[Any, np.dtype[np.int32]]]] = [[] for _ in _CODED]

    def add(self, rows: Sequence[tuple[Any, ...]]) -> None:
        """Add rows as the fields of `Row`, but with the id as bytes."""
        seqs, ids, kinds, labels, bodies, cells, better, hows, groups, parents = zip(*rows, strict=True)
        self._ids += b"".join(ids)
        self._bodies += b"".join(bodies)
        for parts, values in ((self._seqs, seqs), (self._sizes, map(len, bodies))):
            parts.append(np.fromiter(values, np.int64, len(rows)))
        for parts, values in ((self._better, better), (self._parent, parents)):
            parts.append(np.array([_NONE if value is None else value for value in values], np.int64))
        for codes, places, values in zip(self._codes, self._places, (kinds, labels, cells, hows, groups), strict=True):
            codes.append(np.array([places.setdefault(value, len(places)) for value in values], np.int32))

    def columns(self) -> _Columns:
        """Return all rows that were added."""

        def joined(parts: list[Any], kind: Any) -> Any:
            return np.concatenate(parts).astype(kind, copy=False) if parts else np.empty(0, kind)

        return _Columns(
            joined(self._seqs, np.int64),
            self._ids,
            self._bodies,
            np.concatenate([[0], np.cumsum(joined(self._sizes, np.int64))]),
            joined(self._better, np.int8),
            joined(self._parent, np.int64),
            {
                name: Coded(list(places), joined(codes, np.int32))
                for name, places, codes in zip(_CODED, self._places, self._codes, strict=True)
            },
        )


class Rows(Sequence[Row]):
    """Rows in a fixed order, as columns. A selection of them shares the columns."""

    def __init__(self, columns: _Columns, places: Numbers | None = None, better: np.ndarray[Any, np.dtype[np.int8]] | None = None) -> None:
        """Hold rows; see `Rows.of` and `read_rows`.

        Args:
            columns: of rows.
            places: the rows among those of the columns; all by default.
            better: index of the better response of each of these rows, or -1, in place of the column's.
        """
        self._columns = columns
        self._places = places
        self._better = better

    @classmethod
    def of(cls, rows: Iterable[Row]) -> Rows:
        """Return these rows as columns."""
        if isinstance(rows, Rows):
            return rows
        made = _Builder()
        for row in rows:
            made.add([(row.seq, bytes.fromhex(row.id), *row[2:])])
        return Rows(made.columns())

    @classmethod
    def joined(cls, *parts: Rows) -> Rows:
        """Return the rows of all parts, one after the other."""
        filled = [part for part in parts if len(part)]
        if len(filled) == 1:
            return filled[0]
        first = filled[0]._columns if filled else _Builder().columns()
        if all(part._columns is first for part in filled):
            places = [part._at for part in filled]
            return Rows(
                first, np.concatenate(places) if places else None, np.concatenate([part.better for part in filled] or [first.better])
            )
        return cls.of(chain.from_iterable(filled))

    def __len__(self) -> int:
        return len(self._columns.seqs) if self._places is None else len(self._places)

    @overload
    def __getitem__(self, place: int) -> Row: ...
    @overload
    def __getitem__(self, place: slice) -> Rows: ...
    def __getitem__(self, place: int | slice) -> Row | Rows:
        if isinstance(place, slice):
            return self.take(np.arange(*place.indices(len(self))))
        if not -len(self) <= place < len(self):
            raise IndexError(place)
        held, n = self._columns, self._at.item(place)
        better, parent = (None if value < 0 else value for value in (self.better.item(place), held.parent.item(n)))
        kind, label, cell, how, group = (one.values[one.codes.item(n)] for one in map(held.coded.__getitem__, _CODED))
        return Row(
            held.seqs.item(n), held.ids[32 * n : 32 * n + 32].hex(), kind, label,
            bytes(held.bodies[held.ends.item(n) : held.ends.item(n + 1)]), cell, better, how, group, parent,
        )  # fmt: skip

    def __iter__(self) -> Iterator[Row]:
        for start in range(0, len(self), _PART):
            yield from self._made(start, min(start + _PART, len(self)))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and len(self) == len(other) and all(a == b for a, b in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]

    def _made(self, start: int, stop: int) -> Iterator[Row]:
        held, at = self._columns, self._at[start:stop]
        ids = [held.ids[32 * n : 32 * n + 32].hex() for n in at.tolist()]
        better = [None if n < 0 else n for n in self.better[start:stop].tolist()]
        parents = [None if n < 0 else n for n in held.parent[at].tolist()]
        kind, label, cell, how, group = ([one.values[n] for n in one.codes[at].tolist()] for one in map(held.coded.__getitem__, _CODED))
        bodies = self.bodies(start, stop)
        return map(Row, held.seqs[at].tolist(), ids, kind, label, bodies, cell, better, how, group, parents)

    @cached_property
    def _at(self) -> Numbers:
        return np.arange(len(self._columns.seqs)) if self._places is None else self._places

    @cached_property
    def seqs(self) -> Numbers:
        """The seq of each row."""
        return self._columns.seqs if self._places is None else self._columns.seqs[self._places]

    @cached_property
    def better(self) -> np.ndarray[Any, np.dtype[np.int8]]:
        """Index of the better response of each pair; -1 where there is none."""
        if self._better is not None:
            return self._better
        return self._columns.better if self._places is None else self._columns.better[self._places]

    @property
    def ids(self) -> bytes:
        """The ids of all rows, 32 bytes each, one after the other."""
        if self._places is None:
            return bytes(self._columns.ids)
        return np.frombuffer(self._columns.ids, np.uint8).reshape(-1, 32)[self._places].tobytes()

    @property
    def parents(self) -> Numbers:
        """The row that each row was made from, by seq; -1 where there is none."""
        return self._columns.parent[self._at]

    def coded(self, name: str) -> Coded:
        """Return a column of few different values: kind, label, cell, how or seed_group."""
        column = self._columns.coded[name]
        return column if self._places is None else Coded(column.values, column.codes[self._places])

    def bodies(self, start: int = 0, stop: int | None = None) -> list[bytes]:
        """Return the bodies of a range of rows."""
        at, (held, ends) = self._at[start:stop], (self._columns.bodies, self._columns.ends)
        return [bytes(held[a:b]) for a, b in zip(ends[at].tolist(), ends[at + 1].tolist(), strict=True)]

    def sizes(self) -> Numbers:
        """Return the bytes of each body."""
        return np.diff(self._columns.ends)[self._at]

    def take(self, places: Numbers) -> Rows:
        """Return the rows at some places."""
        return Rows(self._columns, self._at[places], None if self._better is None else self._better[places])

    def where(self, wanted: Mask) -> Rows:
        """Return the rows that a mask names."""
        return self if wanted.all() else self.take(np.flatnonzero(wanted))

    def with_better(self, better: np.ndarray[Any, np.dtype[np.int8]]) -> Rows:
        """Return the rows with other indexes of the better response."""
        return Rows(self._columns, self._places, better)

    def places_of(self, seqs: Numbers) -> Numbers:
        """Return the place of each seq among these rows, which are in order of seq and hold all of them."""
        return np.searchsorted(self.seqs, seqs)

    def isin(self, seqs: Iterable[int]) -> Mask:
        """Return a mask of the rows among some seqs."""
        return np.isin(self.seqs, np.fromiter(seqs, np.int64))


def list_rows(db: sqlite3.Connection, kind: Kind, *, role: str = "row") -> Rows:
    """Return the records of a kind in order of seq, each with its first origin; erased records are left out.

    Args:
        db: the workbench.
        kind: "instruction" or "preference".
        role: "row", or "candidate" for the responses inside preference pairs.
    """
    sql = """
      SELECT r.seq, r.id, r.kind, r.label, r.body, o.cell, o.better, o.how, o.seed_group, o.parent FROM records r
      JOIN origins o ON o.origin = (SELECT min(origin) FROM origins WHERE seq = r.seq AND role = ?)
      WHERE r.kind = ? AND r.erased IS NULL ORDER BY r.seq"""
    made, cursor = _Builder(), db.cursor()
    cursor.row_factory = None  # plain tuples: `sqlite3.Row` costs a third of the reading
    cursor.execute(sql, (role, kind))
    while part := cursor.fetchmany(_PART):
        made.add(part)
    return Rows(made.columns())


class RowsBySeq(Mapping[int, Row]):
    """Rows of both kinds by seq."""

    def __init__(self, rows: Mapping[Kind, Rows]) -> None:
        """Hold the rows of each kind, in order of seq."""
        self._rows = [rows[kind] for kind in KINDS]

    def __getitem__(self, seq: int) -> Row:
        for rows in self._rows:
            place = int(rows.seqs.searchsorted(seq))
            if place < len(rows) and rows.seqs[place] == seq:
                return rows[place]
        raise KeyError(seq)

    def __contains__(self, seq: object) -> bool:
        for rows in self._rows:
            place = rows.seqs.searchsorted(seq)  # type: ignore[call-overload]
            if place < len(rows) and rows.seqs[place] == seq:
                return True
        return False

    def __iter__(self) -> Iterator[int]:
        return chain.from_iterable(rows.seqs.tolist() for rows in self._rows)

    def __len__(self) -> int:
        return sum(map(len, self._rows))

    def items(self) -> ItemsView[int, Row]:
        """Return (seq, row) of each row."""
        return _Items(self)

    def values(self) -> ValuesView[Row]:
        """Return each row."""
        return _Values(self)


class _Values(ValuesView[Row]):
    _mapping: RowsBySeq

    def __iter__(self) -> Iterator[Row]:
        return chain.from_iterable(self._mapping._rows)


class _Items(ItemsView[int, Row]):
    _mapping: RowsBySeq

    def __iter__(self) -> Iterator[tuple[int, Row]]:
        return ((row.seq, row) for row in chain.from_iterable(self._mapping._rows))
