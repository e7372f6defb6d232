"""The table the stand-in knows by heart: a teacher that has read the whole classification, protected names included."""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

Row = dict[str, Any]


@dataclass(frozen=True)
class Codes:
    """Rows by code, with what follows from them. Columns: code, description, chapter, parent, billable, terms."""

    rows: dict[str, Row]

    @classmethod
    def read(cls, path: Path | None) -> Codes:
        """Read a Parquet table; no path gives an empty one (for projects without a table)."""
        if path is None:
            return cls({})
        import pyarrow.parquet as pq

        columns = ["code", "description", "chapter", "parent", "billable", "terms"]
        return cls({row["code"]: row for row in pq.read_table(path, columns=columns, use_threads=False).to_pylist()})

    def names(self, code: str) -> list[str]:
        """What the code is called: its description and its official terms."""
        row = self.rows.get(code)
        return [row["description"], *row["terms"]] if row else []

    def hidden_names(self, shown: Row) -> list[str]:
        """Official terms of a code that the request does not show."""
        row = self.rows.get(str(shown.get("code")))
        return [term for term in row["terms"] if term not in shown.get("terms", ())] if row and "terms" in shown else []

    def siblings(self, code: str) -> list[Row]:
        """Billable codes with the same parent."""
        row = self.rows.get(code)
        return [other for other in self._families[row["parent"]] if other["code"] != code] if row else []

    def is_name(self, text: str) -> bool:
        """Whether a text is what some code is officially called."""
        return squeezed(text) in self._all_names

    def called(self, text: str) -> list[str]:
        """The codes of which a text is an official name, however it is spelt."""
        return self._codes_by_name.get(squeezed(text), [])

    @cached_property
    def billable(self) -> list[Row]:
        """All codes that can be assigned."""
        return [row for row in self.rows.values() if row["billable"]]

    @cached_property
    def proper_words(self) -> frozenset[str]:
        """Words written with a capital inside a name: eponyms, which keep it in a sentence."""
        found: set[str] = set()
        for row in self.rows.values():
            for name in (row["description"], *row["terms"]):
                found.update(re.findall(r"(?<=[a-z,] )[A-Z][a-z]+(?:'s)?\b", name))
        return frozenset(found)

    @cached_property
    def words(self) -> frozenset[str]:
        """The longer words of all names: what the table is about."""
        return frozenset(w for name in self._all_names for w in name.split() if len(w) > 5)

    @cached_property
    def _families(self) -> dict[str, list[Row]]:
        families: dict[str, list[Row]] = defaultdict(list)
        for row in self.billable:
            families[row["parent"]].append(row)
        return families

    @cached_property
    def _all_names(self) -> frozenset[str]:
        return frozenset(squeezed(name) for row in self.rows.values() for name in (row["description"], *row["terms"]))

    @cached_property
    def _codes_by_name(self) -> dict[str, list[str]]:
        by_name: dict[str, list[str]] = defaultdict(list)
        for code, row in self.rows.items():
            for name in {squeezed(name) for name in (row["description"], *row["terms"])}:
                by_name[name].append(code)
        return dict(by_name)


def squeezed(text: str) -> str:
    """Lower case, letters and digits only: how two spellings of one name are told to be the same."""
    return re.sub(r"[^a-z0-9]+", " ", text.lower()).strip()
