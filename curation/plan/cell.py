"""One example to write, as the plan lays it out."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from curation.records import Kind

Row = dict[str, Any]


class Cell(BaseModel):
    """One example to write."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str
    """Kind and ordinal: "instruction:00042"."""
    kind: Kind
    ordinal: int
    attributes: dict[str, str]
    described: dict[str, str] = {}
    """Value to a sentence that describes it, for the values that have one."""
    key: str | None = None
    """Key of the table row the example is about."""
    row: Row | None = None
    """The columns of that row that the teacher may see, protected texts taken out."""
    siblings: tuple[Row, ...] = ()
    """Rows that could plausibly be confused with it, for preference pairs."""
    passage: Row | None = None
    """The passage of a document the example is about: file, start (in characters) and text."""
    visit: int = 0
    """How many earlier cells of this kind are about the same row or passage."""
    turns: int = 1
    """User turns of the conversation."""
    evolve: Literal["deeper", "broader"] | None = None
    """How the example grows from that of an earlier cell."""
    parent: str | None = None
    """That cell."""

    @property
    def reference(self) -> Row | None:
        """What the judge may take for the truth."""
        return self.row if self.passage is None else {"document": self.passage["file"], "passage": self.passage["text"]}


def cell_id(kind: Kind, ordinal: int) -> str:
    """For example instruction:00042."""
    return f"{kind}:{ordinal:05d}"
