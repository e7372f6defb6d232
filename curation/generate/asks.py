"""What to ask for in one request: which cells, which texts are taken, which example it grows from."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterable, Iterator, Sequence

from pydantic import BaseModel, ConfigDict

from curation.plan import Cell
from curation.requests import cells_in

TAKEN_CHARS = 90
"""How much of an example is shown to say that it is taken: enough to know it by, too little to copy."""

APPROACHES = (
    "the way you would answer first",
    "as short and plain as the matter allows",
    "step by step, each step with its reason",
    "beginning with what this user needs most, then the rest",
    "from the general rule to this case",
    "with one concrete example that settles it",
    "weighing what speaks for another answer before you decide",
    "as you would to a colleague who will check every word",
)
"""How candidates of one model differ where sampling temperature is gone."""


class Parent(BaseModel):
    """The example that another grows from."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str
    prompt: str
    answer: str


class Ask(BaseModel):
    """All that a request depends on beside the project and the plan; kept, so that the same request can be made again."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    slot: str
    """One cell, several ("instruction:00004+00005"), or one answer more to a cell's prompt ("preference:00004#2")."""
    attempt: int = 0
    taken: tuple[str, ...] = ()
    """Beginnings of examples that exist already, to keep away from."""
    parent: Parent | None = None
    asked: str | None = None
    """For one answer more: what the user asked."""
    approach: str = ""
    writer: int = 0
    """Who is asked: 0 the teacher, 1 the first of `models.writers` …"""

    @property
    def cells(self) -> tuple[str, ...]:
        """The cells it is about."""
        return cells_in(self.slot)


def slot_of(cells: Sequence[Cell]) -> str:
    """The name of a request for some cells of one kind."""
    return f"{cells[0].kind}:{'+'.join(cell.id.partition(':')[2] for cell in cells)}"


def group_cells(cells: Iterable[Cell], *, per_call: int) -> Iterator[tuple[Cell, ...]]:
    """Cells to be asked for together: of one kind, in order; one that is a conversation or grows from another goes alone."""
    waiting: dict[str, list[Cell]] = defaultdict(list)
    for cell in cells:
        if per_call == 1 or cell.turns > 1 or cell.evolve:
            yield (cell,)
            continue
        waiting[cell.kind].append(cell)
        if len(waiting[cell.kind]) == per_call:
            yield tuple(waiting.pop(cell.kind))
    yield from (tuple(left) for left in waiting.values())


def shorten(text: str) -> str:
    """A text's beginning, cut between words."""
    flat = " ".join(text.split())
    return flat if len(flat) <= TAKEN_CHARS else f"{flat[:TAKEN_CHARS].rsplit(' ', 1)[0]} …"


class Neighbours:
    """The examples written so far, found by how near their cells are: the same cell, row or passage, then the most attributes."""

    def __init__(self) -> None:
        self._at: dict[Hashable, list[str]] = defaultdict(list)

    def add(self, cell: Cell, text: str) -> None:
        """One more is written."""
        short = shorten(text)
        for place in self._places(cell):
            self._at[place].append(short)

    def near(self, cell: Cell, *, limit: int) -> tuple[str, ...]:
        """At most LIMIT beginnings, nearest first, the latest first among equals."""
        found: dict[str, None] = {}
        for place in self._places(cell):
            for short in reversed(self._at.get(place, ())):
                if len(found) == limit:
                    return tuple(found)
                found[short] = None
        return tuple(found)

    def _places(self, cell: Cell) -> Iterator[Hashable]:
        yield "cell", cell.id
        if cell.key is not None:
            yield "row", cell.key
        if cell.passage is not None:
            yield "passage", cell.passage["file"], cell.passage["start"]
        values = tuple(sorted(cell.attributes.items()))
        yield "all", cell.kind, values
        for left_out in range(len(values)):
            yield "most", cell.kind, values[:left_out] + values[left_out + 1 :]
        if values:
            yield "first", cell.kind, next(iter(cell.attributes.items()))
