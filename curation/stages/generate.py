"""The stages in which the teacher writes: plan, generate. Core: plan/, generate/."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from curation import generate as generation
from curation.config.project import planned_rows
from curation.errors import BudgetReached, ProjectError, UnusableAnswers, command
from curation.generate import APPROACHES, GenerationInput, Neighbours, Parent, ParsedRecord, group_cells, slot_of
from curation.generate.requests import writer_of
from curation.plan import Cell, holds_any, lengths_of, normalized
from curation.records import KINDS, InstructionRecord, Record, prompt_text
from curation.requests import Answer, Failure, Request, cells_in
from curation.stages.model_calls import ask, settle_earlier
from curation.store import facts, generation_inputs, records, runs
from curation.store.database import CallLedger, hold_lock
from curation.store.records import Origin
from curation.views.next_step import generate_settings
from curation.views.plan_coverage import next_attempts
from curation.views.protected import load_protected
from curation.views.runs import count_failed, is_simulated
from curation.workspace import Progress, StageResult, Workspace, load_cells, load_seeds, open_workspace

Produced = tuple[Record, Origin]

CHUNK = 4000
"""So many records are added in one transaction. All that an answer became, rows and failures, stands in the same one: an answer of which
a kill left a part would never be read again."""


def read_generated(workspace: Workspace, cells: Sequence[Cell], run: int) -> int:
    """Turn the teacher's answers that were not read yet into records; returns how many rows they gave."""
    by_id = {cell.id: cell for cell in cells}
    seen = records.origin_sources(workspace.db, "generated") | facts.failed_calls(workspace.db, "generate")
    made_of = generation_inputs.load_asks(workspace.db, "generate")
    seqs = {identity: seq for seq, identity in records.ids_of(workspace.db).items()}
    made: list[Produced] = []
    failures: list[Failure] = []
    rows = 0
    for answer in _answers(workspace):
        about = [by_id[cell] for cell in cells_in(answer.request.slot) if cell in by_id]
        if answer.request.key in seen or len(about) != len(cells_in(answer.request.slot)):
            continue
        body = made_of.get((answer.request.slot, answer.request.attempt))
        ask = GenerationInput.model_validate_json(body) if body is not None else None
        for cell, result in generation.read_answer(answer, about, project=workspace.project, generation_input=ask):
            if isinstance(result, Failure):
                failures.append(result)
                continue
            produced = list(_produced(result, cell, answer, ask, workspace, seqs))
            rows += sum(origin.part == 0 for _, origin in produced)
            made += produced
        if len(made) >= CHUNK:
            records.add_records(workspace.db, made, run, failures=failures)
            made, failures = [], []
    records.add_records(workspace.db, made, run, failures=failures)
    return rows


def neighbours_of(workspace: Workspace, cells: Mapping[str, Cell], protected: Sequence[str]) -> Neighbours:
    """What has been written, to be shown as taken. A row that leaks, or holds a protected text, is never shown."""
    leaks, is_clear = _leaking(workspace), _clear_of(protected)
    written = Neighbours()
    for kind in KINDS:
        for row in records.list_rows(workspace.db, kind):
            text = row.prompt
            if row.cell is not None and row.cell in cells and row.seq not in leaks and is_clear(text):
                written.add(cells[row.cell], text)
    return written


def parents_of(workspace: Workspace, protected: Sequence[str]) -> dict[str, Parent]:
    """For each cell the example that others may grow from: its latest record that no gate has dropped and that holds no protected text."""
    verdicts, leaks, is_clear = facts.verdicts_by_seq(workspace.db), _leaking(workspace), _clear_of(protected)
    return {
        row.cell: Parent(id=row.id, prompt=row.prompt, answer=row.completion)
        for row in records.list_rows(workspace.db, "instruction")
        if row.cell is not None
        and verdicts.get(row.seq, {}).get("verdict") != "dropped"
        and row.seq not in leaks
        and is_clear("\n".join(row.texts))
    }


def answered_slots(workspace: Workspace) -> set[tuple[str, int]]:
    """(slot, attempt) of every answer."""
    return {(answer.request.slot, answer.request.attempt) for answer in _answers(workspace)}


def first_candidates(workspace: Workspace, protected: Sequence[str]) -> dict[tuple[str, int], str]:
    """(cell, attempt) to what was asked there, for the prompts that got their first candidate and hold no protected text."""
    is_clear = _clear_of(protected)
    rows = {row.id: row.record for row in records.list_rows(workspace.db, "instruction", role="candidate")}
    calls = {answer.request.key: answer.request for answer in _answers(workspace) if "#" not in answer.request.slot}
    found: dict[tuple[str, int], str] = {}
    for seq, identity in records.ids_of(workspace.db).items():
        record = rows.get(identity)
        for origin in records.load_row(workspace.db, seq)["origins"] if isinstance(record, InstructionRecord) else ():
            request = calls.get(origin["source"])
            if request is not None and origin["cell"] is not None and record is not None and is_clear(prompt_text(record)):
                found.setdefault((origin["cell"], request.attempt), prompt_text(record))
    return found


def _leaking(workspace: Workspace) -> set[int]:
    return {f.seq for f in facts.latest_findings(workspace.db, ("screen",)) if f.kind.startswith("leak")}


def _clear_of(protected: Sequence[str]) -> Callable[[str], bool]:
    """Tells whether a text holds none of the protected ones word for word; rewordings are for the screen to find."""
    known = {normalized(text) for text in protected}
    lengths = lengths_of(known)
    return lambda text: not holds_any(normalized(text), known, lengths)


def _answers(workspace: Workspace) -> Iterator[Answer]:
    """The answers of the teacher and of the other writers; simulated ones only where such a model is named."""
    writers = (workspace.project.models.teacher, *workspace.project.models.writers)
    for simulated in sorted({is_simulated(spec) for spec in writers}):
        yield from CallLedger(workspace.db).answers("generate", simulated=simulated)


def _produced(
    made: ParsedRecord, cell: Cell, answer: Answer, ask: GenerationInput | None, workspace: Workspace, seqs: Mapping[str, int]
) -> Iterator[Produced]:
    """A record with its origin, and a pair's two answers with theirs."""
    key = answer.request.key
    parent = seqs.get(ask.parent.id) if ask is not None and ask.parent is not None else None
    group, role = _seed_group(cell, workspace), int(made.is_candidate)
    yield made.record, Origin("generated", key, made.item, role, cell.id, made.better, parent, group, made.raw)
    for part, candidate in enumerate(made.candidates, 1):
        yield candidate, Origin("generated", key, made.item, part, cell.id, seed_group=group)


def _seed_group(cell: Cell, workspace: Workspace) -> str | None:
    """What must stay on one side of the split: a conversation, and all that grew from one example."""
    evolve = workspace.project.plan.evolve
    if evolve.deeper or evolve.broader:
        return f"cell:{cell.parent or cell.id}"
    return f"cell:{cell.id}" if cell.turns > 1 else None


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


def only_one_writes(workspace: Workspace) -> AbstractContextManager[None]:
    """A request that depends on what is written already, or on which cells are asked for with it, must be made by one process;
    others share the work."""
    plan = workspace.project.plan
    alone = plan.per_call > 1 or plan.avoid or plan.evolve.deeper or plan.evolve.broader or plan.candidates
    return hold_lock(workspace.db, "generate") if alone else nullcontext()


def write_cells(workspace: Workspace, wanted: Wanted, *, run: int, progress: Progress | None) -> Writing:
    """Ask for every cell of a round, those on their way from an earlier run first and just as they were; then read what came.

    Made anew, with other texts taken, a request would be another one and be bought again.
    """
    done = Writing()
    try:
        begun = _begun(workspace, wanted)
        _ask_round(workspace, wanted, begun, progress, done)
        done.rows += read_generated(workspace, list(wanted.cells.values()), run)
        taken = {cell for ask_ in begun for cell in ask_.cells}
        for some in _waves([cell for cell in wanted.todo if cell.id not in taken], wanted.avoid):
            _ask_round(workspace, wanted, list(_asks_for(workspace, some, wanted)), progress, done)
            done.rows += read_generated(workspace, list(wanted.cells.values()), run)
        _ask_round(workspace, wanted, list(_further_answers(workspace, wanted)), progress, done)
    except (BudgetReached, UnusableAnswers) as error:
        done.error = error
    finally:
        done.rows += read_generated(workspace, list(wanted.cells.values()), run)
    return done


def _begun(workspace: Workspace, wanted: Wanted) -> list[GenerationInput]:
    """What was sent, or about to be, and has no end."""
    todo = {cell.id for cell in wanted.todo}
    open_ = map(GenerationInput.model_validate_json, generation_inputs.open_asks(workspace.db, "generate"))
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


def _asks_for(workspace: Workspace, some: Sequence[Cell], wanted: Wanted) -> Iterator[GenerationInput]:
    protected = _protected(workspace)
    written = neighbours_of(workspace, wanted.cells, protected) if wanted.avoid else Neighbours()
    parents = parents_of(workspace, protected) if any(cell.evolve for cell in some) else {}
    for group in group_cells(some, per_call=workspace.project.plan.per_call):
        taken = dict.fromkeys(text for cell in group for text in written.near(cell, limit=wanted.avoid))
        yield GenerationInput(
            slot=slot_of(group),
            attempt=max(wanted.attempts.get(cell.id, 0) for cell in group),
            taken=tuple(taken),
            parent=parents.get(group[0].parent or "") if group[0].evolve else None,
        )


def _further_answers(workspace: Workspace, wanted: Wanted) -> Iterator[GenerationInput]:
    """For prompts that have their first candidate, the other answers; in turns over the models that write."""
    count, project = workspace.project.plan.candidates, workspace.project
    if not count:
        return
    writers = 1 + len(project.models.writers)
    ended = answered_slots(workspace)
    for (cell, attempt), asked in first_candidates(workspace, _protected(workspace)).items():
        for nth in range(1, count) if cell in wanted.cells else ():
            slot = f"{cell}#{nth}"
            if (slot, attempt) not in ended:
                yield GenerationInput(
                    slot=slot, attempt=attempt, asked=asked, approach=APPROACHES[nth % len(APPROACHES)], writer=nth % writers
                )


def _ask_round(workspace: Workspace, wanted: Wanted, some: Sequence[GenerationInput], progress: Progress | None, done: Writing) -> None:
    if not some:
        return
    generation_inputs.add_asks(workspace.db, "generate", ((a.slot, a.attempt, a.model_dump_json().encode()) for a in some))
    kept = generation_inputs.load_asks(workspace.db, "generate")  # one that was asked before stays as it was
    some = [GenerationInput.model_validate_json(kept[a.slot, a.attempt]) for a in some]
    done.asked += sum(len(a.cells) for a in some)
    protected, seeds = _protected(workspace), load_seeds(workspace.folder)
    asked_by = {(one.slot, one.attempt): one for one in some}

    def read(answer: Answer) -> Failure | None:
        """Why an answer gave no cell anything."""
        about = [wanted.cells[cell] for cell in cells_in(answer.request.slot)]
        one = asked_by[answer.request.slot, answer.request.attempt]
        results = [result for _, result in generation.read_answer(answer, about, project=workspace.project, generation_input=one)]
        failures = [result for result in results if isinstance(result, Failure)]
        return failures[0] if len(failures) == len(results) and failures else None

    by_writer: dict[int, list[Request]] = defaultdict(list)
    requests = generation.build_requests(some, wanted.cells, project=workspace.project, seeds=seeds, protected_texts=protected)
    for one, request in zip(some, requests, strict=True):
        by_writer[one.writer].append(request)
    for place, requested in sorted(by_writer.items()):
        ask(workspace, requested, writer_of(some[0].model_copy(update={"writer": place}), workspace.project), progress=progress, read=read)


def _protected(workspace: Workspace) -> list[str]:
    return [text for items in load_protected(workspace) for text in items.texts]


def generate(folder: Path, *, progress: Progress | None = None, retry_failed: bool = False) -> StageResult:
    """Have the teacher write the cells that have no record yet. Every answer is on disk before it is read. Core: generate/."""
    with open_workspace(folder) as workspace, only_one_writes(workspace):
        cells = load_cells(workspace)
        if not cells:
            raise ProjectError(*_no_plan(workspace))
        with runs.record_run(workspace.db, "generate", generation.generation_digest(workspace.project, "instruction")) as run:
            left = settle_earlier(workspace)
            read_generated(workspace, cells, run.number)
            made, failed = records.cells_made(workspace.db), facts.failed_slots(workspace.db, "generate")
            missing = [c for c in cells if c.id not in made and (retry_failed or c.id not in failed)]
            run.rows_in = len(missing)
            attempts = {cell: n for cell, n in next_attempts(workspace).items() if cell in failed}
            wanted = Wanted(missing, {cell.id: cell for cell in cells}, attempts, workspace.project.plan.avoid)
            done = write_cells(workspace, wanted, run=run.number, progress=progress)
            run.rows_out = done.rows
            run.detail = {
                "asked": len(missing), "records": done.rows, "stopped": done.why, "budget_usd": workspace.project.budget.usd,
                "settings": generate_settings(workspace),
            }  # fmt: skip
        if isinstance(done.error, UnusableAnswers):  # what came before is kept, and the run is in the record
            raise done.error
        return _tell_generated(workspace, cells, run.rows_in, done.rows, [*left, *([done.stopped] if done.stopped else [])])


def _no_plan(workspace: Workspace) -> tuple[str, str, str]:
    if any(planned_rows(workspace.project).values()):
        return str(workspace.folder), "has no plan yet", command("curate", "plan", workspace.folder)
    where, imported = workspace.folder / "project.yaml", command("curate", "import", workspace.folder)
    return f"{where}: plan", "asks for no rows", f"set plan.instruction or plan.preference and run curate plan, or {imported} FILE"


def _affordable(workspace: Workspace) -> int | None:
    """How many more calls of the teacher the budget covers, by what they have cost so far; None where nothing has been paid."""
    spec = workspace.project.models.teacher
    paid = [row for row in CallLedger(workspace.db).costs() if row.stage == "generate" and row.simulated == is_simulated(spec)]
    calls, cost = sum(row.calls for row in paid), sum(row.cost_usd + row.uncertain_usd for row in paid)
    left = workspace.project.budget.usd - CallLedger(workspace.db).spent_usd(simulated=is_simulated(spec))
    return max(0, int(left * calls / cost)) if cost else None


def _tell_generated(workspace: Workspace, cells: Sequence[Cell], asked: int, new: int, notes: list[str]) -> StageResult:
    made = records.cells_made(workspace.db)
    failures = count_failed(workspace, "generate")
    by_kind = dict[str, int]((kind, sum(c.id in made and c.kind == kind for c in cells)) for kind in KINDS)
    counts = {"asked": asked, **by_kind, "cells_filled": len(made & {c.id for c in cells}), "cells": len(cells), "failures": failures}
    counts["refusals"] = CallLedger(workspace.db).refusals("generate")
    failed = facts.failed_slots(workspace.db, "generate").keys() - made
    if empty := sum(cell.id in failed for cell in cells):
        again = command("curate", "generate", workspace.folder, "--retry-failed")
        notes.append(f"{empty:,} {'cell' if empty == 1 else 'cells'} got no answer that could be used. To ask once more: {again}")
        covered = _affordable(workspace)
        if covered is not None and covered < empty:
            notes.append(f"What is left of budget.usd covers about {covered:,} of them.")
    if workspace.project.models.teacher.is_simulated:
        notes.append("The teacher is the offline stand-in: made-up examples, for trying things out.")
    return StageResult("generate", asked, new, counts, notes)
