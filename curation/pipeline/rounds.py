"""How cells are asked for: in rounds, each made from what the rounds before have written. Core: generate/."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import pairwise

from curation import generate as generation
from curation.errors import BudgetReached, UnusableAnswers
from curation.generate import APPROACHES, Ask, Neighbours, group_cells, slot_of
from curation.generate.requests import writer_of
from curation.pipeline.asking import Progress, ask
from curation.pipeline.bench import Bench, load_protected, load_seeds
from curation.pipeline.written import answered_slots, first_candidates, neighbours_of, parents_of, read_generated
from curation.plan import Cell
from curation.requests import Answer, Failure, Request, cells_in
from curation.store import asks, hold_lock

WAVES = 4
"""Rounds in which cells are written when each is shown what exists: an eighth, an eighth, a quarter, a half."""
FELL_SHOWN = 8
"""Examples shown as taken when a cell is asked again, where the plan does not say how many."""


@dataclass(frozen=True)
class Wanted:
    """The cells of one round of writing."""

    todo: Sequence[Cell]
    cells: Mapping[str, Cell]
    """All cells of the plan."""
    attempts: Mapping[str, int]
    """The attempt each cell is at; 0 where it is not named."""
    avoid: int


@dataclass
class Writing:
    """What a round of writing came to."""

    asked: int = 0
    rows: int = 0
    error: BudgetReached | UnusableAnswers | None = None
    """Why it ended early: the budget, or answers that cannot be used."""

    @property
    def stopped(self) -> str:
        """Why it ended early, in a sentence; empty where it did not."""
        return str(self.error) if self.error else ""

    @property
    def why(self) -> str:
        """Why it ended early, in a word: "budget", "failures", or nothing."""
        return "budget" if isinstance(self.error, BudgetReached) else "failures" if self.error else ""


def only_one_writes(bench: Bench) -> AbstractContextManager[None]:
    """A request that depends on what is written already, or on which cells are asked for with it, must be made by one process;
    others share the work."""
    plan = bench.project.plan
    alone = plan.per_call > 1 or plan.avoid or plan.evolve.deeper or plan.evolve.broader or plan.candidates
    return hold_lock(bench.db, "generate") if alone else nullcontext()


def write_cells(bench: Bench, wanted: Wanted, *, run: int, progress: Progress | None) -> Writing:
    """Ask for every cell of a round, those on their way from an earlier run first and just as they were; then read what came.

    Made anew, with other texts taken, a request would be another one and be bought again.
    """
    done = Writing()
    try:
        begun = _begun(bench, wanted)
        _ask_round(bench, wanted, begun, progress, done)
        done.rows += read_generated(bench, list(wanted.cells.values()), run)
        taken = {cell for ask_ in begun for cell in ask_.cells}
        for some in _waves([cell for cell in wanted.todo if cell.id not in taken], wanted.avoid):
            _ask_round(bench, wanted, list(_asks_for(bench, some, wanted)), progress, done)
            done.rows += read_generated(bench, list(wanted.cells.values()), run)
        _ask_round(bench, wanted, list(_further_answers(bench, wanted)), progress, done)
    except (BudgetReached, UnusableAnswers) as error:
        done.error = error
    finally:
        done.rows += read_generated(bench, list(wanted.cells.values()), run)
    return done


def next_attempts(bench: Bench) -> dict[str, int]:
    """For each cell that was asked for, the number its next attempt has."""
    found: dict[str, int] = {}
    for slot, attempt in asks.attempts_by_slot(bench.db, "generate").items():
        for cell in cells_in(slot):
            found[cell] = max(found.get(cell, 0), attempt + 1)
    return found


def _begun(bench: Bench, wanted: Wanted) -> list[Ask]:
    """What was sent, or about to be, and has no end."""
    todo = {cell.id for cell in wanted.todo}
    open_ = map(Ask.model_validate_json, asks.open_asks(bench.db, "generate"))
    return [begun for begun in open_ if begun.asked is None and todo.issuperset(begun.cells)]


def _waves(todo: Sequence[Cell], avoid: int) -> Iterator[list[Cell]]:
    """Cells that stand by themselves, then those that grow from them."""
    plain = [cell for cell in todo if cell.evolve is None]
    if avoid and len(plain) >= 2**WAVES:
        edges = [0, *(len(plain) >> n for n in range(WAVES - 1, -1, -1))]
        yield from (plain[a:b] for a, b in pairwise(edges))
    elif plain:
        yield plain
    if grown := [cell for cell in todo if cell.evolve is not None]:
        yield grown


def _asks_for(bench: Bench, some: Sequence[Cell], wanted: Wanted) -> Iterator[Ask]:
    protected = _protected(bench)
    written = neighbours_of(bench, wanted.cells, protected) if wanted.avoid else Neighbours()
    parents = parents_of(bench, protected) if any(cell.evolve for cell in some) else {}
    for group in group_cells(some, per_call=bench.project.plan.per_call):
        taken = dict.fromkeys(text for cell in group for text in written.near(cell, limit=wanted.avoid))
        yield Ask(
            slot=slot_of(group),
            attempt=max(wanted.attempts.get(cell.id, 0) for cell in group),
            taken=tuple(taken),
            parent=parents.get(group[0].parent or "") if group[0].evolve else None,
        )


def _further_answers(bench: Bench, wanted: Wanted) -> Iterator[Ask]:
    """For prompts that have their first candidate, the other answers; in turns over the models that write."""
    count, project = bench.project.plan.candidates, bench.project
    if not count:
        return
    writers = 1 + len(project.models.writers)
    ended = answered_slots(bench)
    for (cell, attempt), asked in first_candidates(bench, _protected(bench)).items():
        for nth in range(1, count) if cell in wanted.cells else ():
            slot = f"{cell}#{nth}"
            if (slot, attempt) not in ended:
                yield Ask(slot=slot, attempt=attempt, asked=asked, approach=APPROACHES[nth % len(APPROACHES)], writer=nth % writers)


def _ask_round(bench: Bench, wanted: Wanted, some: Sequence[Ask], progress: Progress | None, done: Writing) -> None:
    if not some:
        return
    asks.add_asks(bench.db, "generate", ((a.slot, a.attempt, a.model_dump_json().encode()) for a in some))
    kept = asks.load_asks(bench.db, "generate")  # one that was asked before stays as it was
    some = [Ask.model_validate_json(kept[a.slot, a.attempt]) for a in some]
    done.asked += sum(len(a.cells) for a in some)
    protected, seeds = _protected(bench), load_seeds(bench.folder)
    asked_by = {(one.slot, one.attempt): one for one in some}

    def read(answer: Answer) -> Failure | None:
        """Why an answer gave no cell anything."""
        about = [wanted.cells[cell] for cell in cells_in(answer.request.slot)]
        one = asked_by[answer.request.slot, answer.request.attempt]
        results = [result for _, result in generation.read_answer(answer, about, project=bench.project, ask=one)]
        failures = [result for result in results if isinstance(result, Failure)]
        return failures[0] if len(failures) == len(results) and failures else None

    by_writer: dict[int, list[Request]] = defaultdict(list)
    requests = generation.ask_requests(some, wanted.cells, project=bench.project, seeds=seeds, protected_texts=protected)
    for one, request in zip(some, requests, strict=True):
        by_writer[one.writer].append(request)
    for place, requested in sorted(by_writer.items()):
        ask(bench, requested, writer_of(some[0].model_copy(update={"writer": place}), bench.project), progress=progress, read=read)


def _protected(bench: Bench) -> list[str]:
    return [text for items in load_protected(bench) for text in items.texts]
