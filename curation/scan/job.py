"""A scan as its tasks see it: where the rows are, the gates, and how rows, keys and pairs are divided among tasks."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import pyarrow as pa

from curation.dedup.arrow_text import Array
from curation.dedup.semantic import EXACT_UP_TO
from curation.scan.storage import Folder, Unit, read_unit

# Buckets up to which each has one unit, and units of a bucket beyond: a bucket's candidate pairs and their texts are in memory together.
_BUCKETS, _UNITS = 32, 4
# Rows of a group of keys, in tasks' worth of rows: an entry takes 20 bytes, a row some hundred.
_KEYS_PER_TASK = 20


@dataclass(frozen=True)
class Suite:
    """A protected set."""

    name: str
    texts: tuple[str, ...]
    labels: tuple[str | None, ...] = ()
    """Class of each text; empty if the rows have no labels that can be compared."""


@dataclass(frozen=True)
class ScanSettings:
    """Columns and gates of a scan."""

    text: str = "text"
    """Column of the text that is compared."""
    label: str | None = None
    """Column of the class: rows of different classes are no duplicates."""
    vectors: str | None = None
    """Column of unit vectors; None to embed the text with `model`."""
    near: float = 0.7
    shingle: int = 5
    semantic: float | None = None
    """Least cosine of a semantic duplicate; None to search for none."""
    same_label: float | None = None
    model: str | None = None
    suites: tuple[Suite, ...] = ()
    allowed: tuple[str, ...] = ()
    """Texts that rows may be near to (`LeakScreen`)."""
    leak_model: str | None = None
    """Embedding model of the leak screen; None to compare words only."""
    false_positive_rate: float = 0.01
    rows_per_task: int = 100_000
    exact_up_to: int = EXACT_UP_TO
    """Rows up to which every pair of vectors is compared."""

    @property
    def columns(self) -> list[tuple[str, str]]:
        """Return the columns that are read, with their kind."""
        named = [(self.text, "text")] + [(self.label, "text")] * (self.label is not None)
        return [*((name, kind) for name, kind in named if name), *([(self.vectors, "vector")] if self.vectors and self.semantic else [])]


@dataclass(frozen=True)
class Job:
    """One scan: the first argument of every task."""

    source: Folder
    work: Folder
    target: Folder
    settings: ScanSettings
    units: tuple[Unit, ...]
    bands: tuple[int, int]
    """(bands, bins per band) of the near-duplicate search."""
    files: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Names of the files that each finished step left, by step."""

    @cached_property
    def rows(self) -> int:
        """All rows."""
        return sum(unit.rows for unit in self.units)

    @cached_property
    def starts(self) -> Array:
        """Place of the first row of each unit, and the number of all rows."""
        return np.array([*(unit.start for unit in self.units), self.rows], np.int64)

    @property
    def prefixes(self) -> int:
        """Groups that the keys of a band are divided into, one task each."""
        return max(1, -(-self.rows // (_KEYS_PER_TASK * self.settings.rows_per_task)))

    @property
    def groups(self) -> int:
        """Groups that pairs are divided into, one task each."""
        return max(1, -(-self.rows // (4 * self.settings.rows_per_task)))

    @property
    def buckets(self) -> int:
        """Groups of consecutive units that texts and pairs are sent to."""
        return min(len(self.units), max(_BUCKETS, len(self.units) // _UNITS))

    def units_in(self, bucket: int) -> range:
        """Return the numbers of the units in a bucket."""
        return range(bucket * len(self.units) // self.buckets, (bucket + 1) * len(self.units) // self.buckets)

    def buckets_of(self, places: Array) -> Array:
        """Return the bucket of each row."""
        firsts = self.starts[[self.units_in(bucket).start for bucket in range(self.buckets)]]
        return np.searchsorted(firsts, places, side="right") - 1

    def read(self, unit: int, *columns: str) -> pa.Table:
        """Read columns of a unit."""
        return read_unit(self.source, self.units[unit], columns)

    def labels(self, unit: int) -> Array:
        """Return a 64-bit number for the label of each row of a unit, the same on every machine; 0 for none."""
        if self.settings.label is None:
            return np.zeros(self.units[unit].rows, np.uint64)
        column = self.read(unit, self.settings.label)[self.settings.label].combine_chunks()
        codes = pa.concat_arrays(column.chunks if isinstance(column, pa.ChunkedArray) else [column]).dictionary_encode()
        names = codes.dictionary.to_pylist()
        numbers = [int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest()) or 1 for name in names]
        return np.array([*numbers, 0], np.uint64)[np.asarray(codes.indices.fill_null(len(names))).astype(np.int64)]


def spread_evenly(places: Array, groups: int) -> Array:
    """Return the group of each row by a hash of its place."""
    mixed = places.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    return ((mixed >> np.uint64(40)) % np.uint64(groups)).astype(np.int64)
