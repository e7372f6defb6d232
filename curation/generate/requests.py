"""Requests to the teacher. What all of a kind share stands first and what changes last, so that the beginning can be cached."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Collection, Hashable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict

from curation.config.project import ModelSpec, Project, settings_digest
from curation.plan import Cell, normalized
from curation.prompts import Name, fill, prompt_digest
from curation.records import Kind
from curation.requests import Request, cells_in
from curation.structured_output import list_schema, message_body, object_schema

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


PROMPTS: dict[Kind, Name] = {"instruction": "teacher_instruction", "preference": "teacher_preference"}

FIELDS: dict[str, tuple[str, ...]] = {"examples": ("instruction", "input", "output"), "pairs": ("input", "better", "worse")}
"""Name of the list in an answer to the texts of each item."""

WAYS = (
    "one more condition that the answer has to meet",
    "a question that goes deeper into the same matter",
    "something general made particular",
    "several steps of reasoning where one was enough",
    "harder material: longer, messier, or with something beside the point in it",
)
"""How an example can be made harder: the in-depth operations of Evol-Instruct (Xu et al. 2023, arXiv:2304.12244)."""

_MOST_TOKENS = 32_000
"""Every current model writes so much in one answer."""

_ASKED_CHARS = 1500

_FILLER = Parent(id="", prompt="-" * _ASKED_CHARS, answer="-" * _ASKED_CHARS)
"""A record that is not written yet, as long as most are."""

_TEXT, _NUMBER = {"type": "string"}, {"type": "number"}


def requests_for(
    cells: Iterable[Cell], *, project: Project, seeds: Sequence[Mapping[str, str]], protected_texts: Collection[str] = ()
) -> Iterator[Request]:
    """One request per cell. Seed examples that are protected texts are not shown."""
    known = {cell.id: cell for cell in cells}
    asks = [Ask(slot=slot_of([cell])) for cell in known.values()]
    yield from ask_requests(asks, known, project=project, seeds=seeds, protected_texts=protected_texts)


def ask_requests(
    asks: Iterable[Ask],
    cells: Mapping[str, Cell],
    *,
    project: Project,
    seeds: Sequence[Mapping[str, str]],
    protected_texts: Collection[str] = (),
) -> Iterator[Request]:
    """One request per ask. The same project, plan and ask make the same request, whatever has been written meanwhile."""
    protected = {normalized(text) for text in protected_texts}
    usable = [dict(seed) for seed in seeds if protected.isdisjoint(normalized(v) for v in seed.values() if isinstance(v, str))]
    for ask in asks:
        about = [cells[cell] for cell in ask.cells]
        yield Request(stage="generate", slot=ask.slot, attempt=ask.attempt, role="teacher", body=_body(ask, about, project, usable))


def planned_requests(cells: Iterable[Cell], *, project: Project, seeds: Sequence[Mapping[str, str]]) -> dict[int, list[Request]]:
    """What writing these cells would ask, by writer (0 is the teacher), before a word is written: where a request will show what
    exists, it shows as much filler. For an upper bound of the cost."""
    known = {cell.id: cell for cell in cells}
    filler = tuple("-" * TAKEN_CHARS for _ in range(project.plan.avoid))
    asks = [
        Ask(slot=slot_of(group), taken=filler * len(group), parent=_FILLER if group[0].evolve else None)
        for group in group_cells(known.values(), per_call=project.plan.per_call)
    ]
    writers, count = 1 + len(project.models.writers), project.plan.candidates
    asks += [
        Ask(slot=f"{cell.id}#{nth}", asked="-" * _ASKED_CHARS, approach=APPROACHES[nth % len(APPROACHES)], writer=nth % writers)
        for cell in known.values()
        for nth in range(1, count)
        if cell.kind == "preference"
    ]
    by_writer: dict[int, list[Request]] = {}
    for ask, request in zip(asks, ask_requests(asks, known, project=project, seeds=seeds), strict=True):
        by_writer.setdefault(ask.writer, []).append(request)
    return by_writer


def generation_digest(project: Project, kind: Kind) -> str:
    """Digest of what shapes the teacher's answers of a kind, beside the plan."""
    return settings_digest(prompt_digest(PROMPTS[kind]), project.brief, project.intended_use, project.records, project.models.teacher.model)


def writer_of(ask: Ask, project: Project) -> ModelSpec:
    """The model that is asked."""
    return (project.models.teacher, *project.models.writers)[ask.writer]


def _body(ask: Ask, cells: Sequence[Cell], project: Project, seeds: Sequence[Mapping[str, str]]) -> dict[str, Any]:
    cell = cells[0]
    shared = {
        "brief": project.brief.strip(),
        "intended_use": project.intended_use.strip(),
        "system": project.records.system,
        "output_format": project.records.output_format.strip(),
    }
    if ask.asked is not None:
        system, user = fill("teacher_answer", **shared, asked=ask.asked, approach=ask.approach)
        return message_body(writer_of(ask, project), system, user, object_schema({"answer": _TEXT}))
    about = {
        **shared,
        "grounded": cell.row is not None,
        "has_passage": cell.passage is not None,
        "examples": _choose_seeds(cell, project, seeds),
        "taken": ask.taken,
        **_entry(cell),
    }
    if ask.parent is not None:
        parent = {"how": cell.evolve, "prompt": ask.parent.prompt, "answer": ask.parent.answer}
        way = WAYS[(cell.ordinal + ask.attempt) % len(WAYS)] if cell.evolve == "deeper" else "a rarer matter of the same field"
        system, user = fill("teacher_evolve", **about, parent=parent, way=f"{cell.evolve}: {way}")
        return message_body(project.models.teacher, system, user, list_schema("examples", dict.fromkeys(FIELDS["examples"], _TEXT)))
    if cell.turns > 1:
        system, user = fill("teacher_conversation", **about, turns=cell.turns)
        turns = {"type": "array", "items": object_schema({"user": _TEXT, "assistant": _TEXT})}
        return _longer(message_body(project.models.teacher, system, user, list_schema("conversations", {"turns": turns})), cell.turns)
    return _written_body(cells, about, project)


def _written_body(cells: Sequence[Cell], about: dict[str, Any], project: Project) -> dict[str, Any]:
    """The usual request: one example, several at once, or several candidates for one."""
    prompt, name = PROMPTS[cells[0].kind], "examples" if cells[0].kind == "instruction" else "pairs"
    if project.plan.candidates:  # a pair then begins as one example whose answer is the first candidate
        prompt, name = "teacher_instruction", "examples"
    count, candidates = len(cells), project.plan.sampling.candidates
    system, user = fill(prompt, **about, count=count, candidates=candidates, entries=[_entry_shown(cell) for cell in cells])
    item: dict[str, Any] = dict.fromkeys(FIELDS[name], _TEXT)
    if count > 1:
        item = {"number": {"type": "integer"}, **item}
    elif candidates > 1:
        item = {"probability": _NUMBER, **item}
    return _longer(message_body(project.models.teacher, system, user, list_schema(name, item)), max(count, candidates))


def _longer(body: dict[str, Any], times: int) -> dict[str, Any]:
    """`max_tokens` in project.yaml is for one example; several need room for several."""
    return {**body, "max_tokens": max(body["max_tokens"], min(body["max_tokens"] * times, _MOST_TOKENS))}


def _entry(cell: Cell) -> dict[str, Any]:
    return {
        "row": cell.row,
        "siblings": cell.siblings,
        "passage": cell.passage["text"] if cell.passage else None,
        "attributes": cell.attributes,
        "described": cell.described,
        "ordinal": cell.ordinal + 1,
        "visit": cell.visit,
    }


def _entry_shown(cell: Cell) -> dict[str, Any]:
    """A cell as one of several entries: what it has, under its number."""
    entry = {name: value for name, value in _entry(cell).items() if value and name not in ("ordinal", "visit")}
    return {"number": cell.ordinal + 1, **entry, **({"written_about_before": cell.visit} if cell.visit else {})}


def _choose_seeds(cell: Cell, project: Project, seeds: Sequence[Mapping[str, str]]) -> list[dict[str, str]]:
    """A few seed examples, others for each cell and the same again for the same cell."""

    def turn(seed: Mapping[str, str]) -> bytes:
        return hashlib.sha256(f"{project.plan.seed}:{cell.id}:{sorted(seed.items())}".encode()).digest()

    return [dict(seed) for seed in sorted(seeds, key=turn)[: project.plan.examples_shown]]
