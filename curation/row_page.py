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
class ReviewerAnswer:
    """One annotator's answer, for the adjudicator of a disputed row."""

    reviewer: str
    says: str
    """The answer in words."""
    comment: str = ""
    edited: str | None = None
    """The text of an edit."""
    of: str = ""
    """The field that the edit changes."""

    def __str__(self) -> str:
        """Return the answer as text, for a server without the rich page."""
        parts = (f"{self.reviewer}: {self.says}", self.edited and f"Edit: {self.edited}", self.comment and f"Comment: {self.comment}")
        return "\n".join(part for part in parts if part)

    def as_value(self) -> dict[str, Any]:
        """Return the value that the page reads."""
        edit = {} if self.edited is None else {"edited": self.edited, "of": self.of}
        return {"reviewer": self.reviewer, "says": self.says, "comment": self.comment, **edit}


@dataclass(frozen=True)
class RowPage:
    """The content of a record's rich page that its text fields do not hold."""

    project: str
    turns: tuple[tuple[str, str], ...]
    """Role and text of each turn of the prompt."""
    evidence: tuple[Evidence, ...] = ()
    decide: tuple[str, ...] = ()
    """Findings that a person must decide on."""
    answers: tuple[ReviewerAnswer, ...] = ()
    """Of a disputed row: what the annotators answered."""

    def as_value(self) -> dict[str, Any]:
        """Return the value of the custom field."""
        turns = [{"role": role, "content": content} for role, content in self.turns]
        evidence = [item.as_value() for item in self.evidence]
        # Without the key where there are none, or the rows of earlier pushes would count as changed.
        answers = {"answers": [item.as_value() for item in self.answers]} if self.answers else {}
        return {"project": self.project, "turns": turns, "evidence": evidence, "decide": list(self.decide), **answers}
