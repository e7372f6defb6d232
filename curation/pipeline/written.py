"""What the teacher has written: its answers turned into records, and what is known of them when more is asked. Core: generate/."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

from curation import generate as generation
from curation.generate import Ask, Made, Neighbours, Parent
from curation.pipeline.asking import is_simulated
from curation.pipeline.bench import Bench
from curation.plan import Cell, holds_any, lengths_of, normalized
from curation.records import KINDS, InstructionRecord, Record, prompt_text
from curation.requests import Answer, Failure, cells_in
from curation.store import CallLedger, asks, facts, records
from curation.store.records import Origin

Produced = tuple[Record, Origin]
CHUNK = 4000
"""So many records are added in one transaction. All that an answer became, rows and failures, stands in the same one: an answer of which
a kill left a part would never be read again."""


def read_generated(bench: Bench, cells: Sequence[Cell], run: int) -> int:
    """Turn the teacher's answers that were not read yet into records; returns how many rows they gave."""
    by_id = {cell.id: cell for cell in cells}
    seen = records.origin_sources(bench.db, "generated") | facts.failed_calls(bench.db, "generate")
    made_of = asks.load_asks(bench.db, "generate")
    seqs = {identity: seq for seq, identity in records.ids_of(bench.db).items()}
    made: list[Produced] = []
    failures: list[Failure] = []
    rows = 0
    for answer in _answers(bench):
        about = [by_id[cell] for cell in cells_in(answer.request.slot) if cell in by_id]
        if answer.request.key in seen or len(about) != len(cells_in(answer.request.slot)):
            continue
        body = made_of.get((answer.request.slot, answer.request.attempt))
        ask = Ask.model_validate_json(body) if body is not None else None
        for cell, result in generation.read_answer(answer, about, project=bench.project, ask=ask):
            if isinstance(result, Failure):
                failures.append(result)
                continue
            produced = list(_produced(result, cell, answer, ask, bench, seqs))
            rows += sum(origin.part == 0 for _, origin in produced)
            made += produced
        if len(made) >= CHUNK:
            records.add_records(bench.db, made, run, failures=failures)
            made, failures = [], []
    records.add_records(bench.db, made, run, failures=failures)
    return rows


def neighbours_of(bench: Bench, cells: Mapping[str, Cell], protected: Sequence[str]) -> Neighbours:
    """What has been written, to be shown as taken. A row that leaks, or holds a protected text, is never shown."""
    leaks, is_clear = _leaking(bench), _clear_of(protected)
    written = Neighbours()
    for kind in KINDS:
        for row in records.list_rows(bench.db, kind):
            text = row.prompt
            if row.cell is not None and row.cell in cells and row.seq not in leaks and is_clear(text):
                written.add(cells[row.cell], text)
    return written


def parents_of(bench: Bench, protected: Sequence[str]) -> dict[str, Parent]:
    """For each cell the example that others may grow from: its latest record that no gate has dropped and that holds no protected text."""
    verdicts, leaks, is_clear = facts.verdicts_by_seq(bench.db), _leaking(bench), _clear_of(protected)
    return {
        row.cell: Parent(id=row.id, prompt=row.prompt, answer=row.completion)
        for row in records.list_rows(bench.db, "instruction")
        if row.cell is not None
        and verdicts.get(row.seq, {}).get("verdict") != "dropped"
        and row.seq not in leaks
        and is_clear("\n".join(row.texts))
    }


def answered_slots(bench: Bench) -> set[tuple[str, int]]:
    """(slot, attempt) of every answer."""
    return {(answer.request.slot, answer.request.attempt) for answer in _answers(bench)}


def first_candidates(bench: Bench, protected: Sequence[str]) -> dict[tuple[str, int], str]:
    """(cell, attempt) to what was asked there, for the prompts that got their first candidate and hold no protected text."""
    is_clear = _clear_of(protected)
    rows = {row.id: row.record for row in records.list_rows(bench.db, "instruction", role="candidate")}
    calls = {answer.request.key: answer.request for answer in _answers(bench) if "#" not in answer.request.slot}
    found: dict[tuple[str, int], str] = {}
    for seq, identity in records.ids_of(bench.db).items():
        record = rows.get(identity)
        for origin in records.load_row(bench.db, seq)["origins"] if isinstance(record, InstructionRecord) else ():
            request = calls.get(origin["source"])
            if request is not None and origin["cell"] is not None and record is not None and is_clear(prompt_text(record)):
                found.setdefault((origin["cell"], request.attempt), prompt_text(record))
    return found


def _leaking(bench: Bench) -> set[int]:
    return {f.seq for f in facts.latest_findings(bench.db, ("screen",)) if f.kind.startswith("leak")}


def _clear_of(protected: Sequence[str]) -> Callable[[str], bool]:
    """Tells whether a text holds none of the protected ones word for word; rewordings are for the screen to find."""
    known = {normalized(text) for text in protected}
    lengths = lengths_of(known)
    return lambda text: not holds_any(normalized(text), known, lengths)


def _answers(bench: Bench) -> Iterator[Answer]:
    """The answers of the teacher and of the other writers; simulated ones only where such a model is named."""
    writers = (bench.project.models.teacher, *bench.project.models.writers)
    for simulated in sorted({is_simulated(spec) for spec in writers}):
        yield from CallLedger(bench.db).answers("generate", simulated=simulated)


def _produced(made: Made, cell: Cell, answer: Answer, ask: Ask | None, bench: Bench, seqs: Mapping[str, int]) -> Iterator[Produced]:
    """A record with its origin, and a pair's two answers with theirs."""
    key = answer.request.key
    parent = seqs.get(ask.parent.id) if ask is not None and ask.parent is not None else None
    group, role = _seed_group(cell, bench), int(made.is_candidate)
    yield made.record, Origin("generated", key, made.item, role, cell.id, made.better, parent, group, made.raw)
    for part, candidate in enumerate(made.candidates, 1):
        yield candidate, Origin("generated", key, made.item, part, cell.id, seed_group=group)


def _seed_group(cell: Cell, bench: Bench) -> str | None:
    """What must stay on one side of the split: a conversation, and all that grew from one example."""
    evolve = bench.project.plan.evolve
    if evolve.deeper or evolve.broader:
        return f"cell:{cell.parent or cell.id}"
    return f"cell:{cell.id}" if cell.turns > 1 else None
