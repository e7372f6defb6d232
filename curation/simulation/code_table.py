"""The code table as the mock provider knows it: completely, with the protected names, like a model that has read the classification."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

Row = dict[str, Any]
"""A row of the table, or the columns of it that a request shows."""
COLUMNS = ["code", "description", "chapter", "parent", "billable", "terms"]


@dataclass(frozen=True)
class CodeTable:
    """Rows by code, each with COLUMNS. `terms` are the official names besides the description."""

    rows: dict[str, Row]

    @classmethod
    def read(cls, path: Path | None) -> CodeTable:
        """Read a Parquet table; without a path return an empty table."""
        if path is None:
            return cls({})
        import pyarrow.parquet as pq

        return cls({row["code"]: row for row in pq.read_table(path, columns=COLUMNS, use_threads=False).to_pylist()})

    def names(self, code: str) -> list[str]:
        """Return the description and the official terms of a code."""
        row = self.rows.get(code)
        return [row["description"], *row["terms"]] if row else []

    def hidden_names(self, shown: Row) -> list[str]:
        """Return the official terms of a code that the row in the request does not show."""
        row = self.rows.get(str(shown.get("code")))
        return [term for term in row["terms"] if term not in shown.get("terms", ())] if row and "terms" in shown else []

    def siblings(self, code: str) -> list[Row]:
        """Return the other billable codes with the same parent."""
        row = self.rows.get(code)
        return [other for other in self._families[row["parent"]] if other["code"] != code] if row else []

    def is_name(self, text: str) -> bool:
        """Return True if the text is an official name of any code, ignoring case and punctuation."""
        return normalize(text) in self._normalized_names

    @cached_property
    def billable(self) -> list[Row]:
        """All codes that can be assigned."""
        return [row for row in self.rows.values() if row["billable"]]

    @cached_property
    def proper_words(self) -> frozenset[str]:
        """Words with a capital inside a name (eponyms); they keep it in a sentence."""
        return frozenset(word for name in self.all_names() for word in re.findall(r"(?<=[a-z,] )[A-Z][a-z]+(?:'s)?\b", name))

    @cached_property
    def words(self) -> frozenset[str]:
        """Words of more than five letters in any name."""
        return frozenset(word for name in self._normalized_names for word in name.split() if len(word) > 5)

    def all_names(self) -> Iterator[str]:
        """Yield every name of every code."""
        for row in self.rows.values():
            yield from (row["description"], *row["terms"])

    @cached_property
    def _families(self) -> dict[str, list[Row]]:
        families: dict[str, list[Row]] = defaultdict(list)
        for row in self.billable:
            families[row["parent"]].append(row)
        return families

    @cached_property
    def _normalized_names(self) -> frozenset[str]:
        return frozenset(map(normalize, self.all_names()))


def normalize(text: str) -> str:
    """Return the text in lower case with letters and digits only."""
    return re.sub(r"[^a-z0-9]+", " ", text.lower()).strip()
