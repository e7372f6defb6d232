"""The content of a row's rich page (`argilla_setup/templates/row.html`) that its text fields do not hold."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Evidence:
    """A source that annotators check a fact against: rows of a table, or a passage."""

    title: str
    text: str | None = None
    """The passage; None for rows of a table."""
    columns: tuple[str, ...] = ()
    rows: tuple[tuple[str, ...], ...] = ()
    marks: tuple[str, ...] = ()
    """For each row of the table: the answers that claim it; empty for its siblings."""

    def as_value(self) -> dict[str, Any]:
        """Return the value that the page reads."""
        if self.text is not None:
            return {"title": self.title, "text": self.text}
        return {"title": self.title, "columns": list(self.columns), "rows": [list(row) for row in self.rows], "marks": list(self.marks)}


@dataclass(frozen=True)
class RowPage:
    """The content of a record's rich page that its text fields do not hold."""

    project: str
    turns: tuple[tuple[str, str], ...]
    """Role and text of each turn of the prompt."""
    evidence: tuple[Evidence, ...] = ()
    decide: tuple[str, ...] = ()
    """Findings that a person must decide on."""

    def as_value(self) -> dict[str, Any]:
        """Return the value of the custom field."""
        turns = [{"role": role, "content": content} for role, content in self.turns]
        evidence = [item.as_value() for item in self.evidence]
        return {"project": self.project, "turns": turns, "evidence": evidence, "decide": list(self.decide)}
