"""What the teacher's answers become: records, each row by itself, or counted failures with their reasons."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from curation.config.project import Project
from curation.errors import RowError
from curation.generate.requests import Ask
from curation.patterns import compile_pattern
from curation.plan import Cell
from curation.records import InstructionRecord, Message, PairRecord, candidates_of, make_instruction, make_pair, parse_record
from curation.requests import Answer, Failure
from curation.structured_output import fail, read_items, read_json

Read = tuple[Cell, "Made | Failure"]


@dataclass(frozen=True, slots=True)
class Made:
    """A record that an answer became."""

    item: int
    """Place in the answer, from 0."""
    record: InstructionRecord | PairRecord
    better: int | None
    """For a pair, the canonical index of the answer the teacher meant to be better."""
    candidates: tuple[InstructionRecord, ...] = ()
    """For a pair, its two answers as records of their own, in canonical order."""
    raw: dict[str, Any] = field(default_factory=dict)
    """The fields as the teacher wrote them."""
    is_candidate: bool = False
    """One of several answers from which a pair will be chosen; it does not stand for itself."""


def records_from(answer: Answer, cell: Cell, *, project: Project) -> list[Made | Failure]:
    """The records of an answer about one cell, each row by itself: one bad row does not take the others with it."""
    return [result for _, result in read_answer(answer, [cell], project=project)]


def read_answer(answer: Answer, cells: Sequence[Cell], *, project: Project, ask: Ask | None = None) -> list[Read]:
    """What an answer gave each of the cells it is about. How it is read follows from what was asked for, not from the settings of today.

    Args:
        ask: what the request was made from; needed for one answer more to a cell's prompt.
    """
    asked = answer.request.body["output_config"]["format"]["schema"]["properties"]
    if "answer" in asked:
        return [(cells[0], _further_answer(answer, ask, project))]
    if "conversations" in asked:
        return [(cells[0], made) for made in _conversations(answer, cells[0], project)]
    name = "pairs" if "pairs" in asked else "examples"
    item = asked[name]["items"]["properties"]
    rows = read_items(answer, name, item)
    if isinstance(rows, Failure):
        return [(cell, _of_cell(rows, cell)) for cell in cells]
    if "number" in item:
        return list(_by_number(answer, rows, cells, project))
    if "probability" in item:
        return list(_least_likely(answer, rows, cells[0], project))
    return [(cells[0], _made_or_failure(answer, n, row, cells[0], project)) for n, row in enumerate(rows)]


def _by_number(answer: Answer, rows: Sequence[dict[str, Any]], cells: Sequence[Cell], project: Project) -> Iterator[Read]:
    """Each row to the cell of its number; a cell without one is a failure, and so is a number nobody asked for."""
    by_number = {cell.ordinal + 1: cell for cell in cells}
    answered = set()
    for n, row in enumerate(rows):
        cell = by_number.get(row["number"])
        if cell is None:
            yield cells[0], _of_slot(fail(answer, "row", f"item {n}: nobody asked for number {row['number']}"), answer.request.slot)
            continue
        answered.add(cell.id)
        texts = {key: value for key, value in row.items() if key != "number"}
        yield cell, _of_cell(_made_or_failure(answer, n, texts, cell, project), cell)
    for cell in cells:
        if cell.id not in answered:
            yield cell, _of_cell(fail(answer, "missing", f"number {cell.ordinal + 1} was asked for and is not in the answer"), cell)


def _least_likely(answer: Answer, rows: Sequence[dict[str, Any]], cell: Cell, project: Project) -> Iterator[Read]:
    """The candidates that the teacher itself says it would seldom give; the others stay in the kept answer."""
    failures: list[Made | Failure] = []
    kept = 0
    for n in sorted(range(len(rows)), key=lambda n: (rows[n]["probability"], n)):
        texts = {key: value for key, value in rows[n].items() if key != "probability"}
        result = _made_or_failure(answer, n, texts, cell, project)
        if isinstance(result, Failure):
            failures.append(result)
            continue
        kept += 1
        yield cell, result
        if kept == project.plan.sampling.keep:
            return
    yield from ((cell, failure) for failure in failures[:1])


def _conversations(answer: Answer, cell: Cell, project: Project) -> list[Made | Failure]:
    value = read_json(answer)
    if isinstance(value, Failure):
        return [value]
    found = value.get("conversations")
    if not isinstance(found, list) or not found:
        return [fail(answer, "schema", f"`conversations` is {'empty' if found == [] else 'not a list'}")]
    made: list[Made | Failure] = []
    for n, entry in enumerate(found):
        try:
            made.append(_conversation(n, entry, cell, project))
        except RowError as error:
            made.append(fail(answer, "row", f"item {n}: {error}"))
    return made


def _conversation(item: int, entry: Any, cell: Cell, project: Project) -> Made:
    """All before the last answer is the prompt, the last answer the completion."""
    turns = entry.get("turns") if isinstance(entry, dict) else None
    if not isinstance(turns, list) or not all(
        isinstance(t, dict) and _is_said(t.get("user")) and _is_said(t.get("assistant")) for t in turns
    ):
        raise RowError("turns", "are not all pairs of `user` and `assistant` texts")
    if len(turns) != cell.turns:
        raise RowError("turns", f"are {len(turns)}; {cell.turns} were asked for")
    system = project.records.system
    said = [{"role": role, "content": turn[role].strip()} for turn in turns for role in ("user", "assistant")]
    before = [{"role": "system", "content": system}] if system else []
    label = _label(said[-1]["content"], project.records.label_pattern)
    record = parse_record({"kind": "instruction", "prompt": (*before, *said[:-1]), "completion": said[-1], "label": label})
    assert isinstance(record, InstructionRecord)
    return Made(item, record, None, (), {"turns": turns})


def _further_answer(answer: Answer, ask: Ask | None, project: Project) -> Made | Failure:
    """One candidate more to a prompt that exists."""
    value = read_json(answer)
    if isinstance(value, Failure):
        return value
    said = value.get("answer")
    if ask is None or ask.asked is None:
        return fail(answer, "row", "what was asked is not known any more")
    if not isinstance(said, str) or not said.strip():
        return fail(answer, "schema", "`answer` is no text, or an empty one")
    rules = project.records
    try:
        record = make_instruction(ask.asked, said.strip(), system=rules.system, label=_label(said, rules.label_pattern))
    except RowError as error:
        return fail(answer, "row", str(error))
    return Made(0, record, None, (), {"answer": said, "approach": ask.approach}, is_candidate=True)


def _made_or_failure(answer: Answer, item: int, row: dict[str, str], cell: Cell, project: Project) -> Made | Failure:
    try:
        return _made(item, row, cell, project)
    except RowError as error:
        return fail(answer, "row", f"item {item}: {error}")


def _of_cell(result: Made | Failure, cell: Cell) -> Any:
    """A failure counts against the cell it left empty."""
    return _of_slot(result, cell.id) if isinstance(result, Failure) else result


def _of_slot(failure: Failure, slot: str) -> Failure:
    return failure.model_copy(update={"slot": slot})


def _is_said(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _made(item: int, row: dict[str, str], cell: Cell, project: Project) -> Made:
    rules = project.records
    empty = [name for name, value in row.items() if not value.strip() and name in ("output", "better", "worse")]
    if empty:
        raise RowError(empty[0], "is empty")
    if "better" in row:
        prompt = _prompt(rules.system, row["input"])
        pair, better = make_pair(prompt, row["better"].strip(), row["worse"].strip())
        return Made(item, pair, better, candidates_of(pair), row)
    output = row["output"].strip()
    record = make_instruction(_question(row, rules.system), output, system=rules.system, label=_label(output, rules.label_pattern))
    return Made(item, record, None, (), row, is_candidate=cell.kind == "preference")


def _question(row: Mapping[str, str], system: str | None) -> str:
    """The user's message: the input alone under a standing instruction, else the instruction and its input."""
    instruction, text = row["instruction"].strip(), row["input"].strip()
    if system is not None:
        return text or instruction
    return "\n\n".join(part for part in (instruction, text) if part)


def _label(output: str, pattern: str | None) -> str | None:
    """What the answer says it is. Never what was asked for: a copied or wrong answer must not pass for the right class."""
    found = compile_pattern(pattern, multiline=False).search(output) if pattern else None
    return found.group(1) if found else None


def _prompt(system: str | None, text: str) -> tuple[Message, ...]:
    """A checked prompt: an empty input is the row's fault, not the program's."""
    record = make_instruction(text.strip(), "-", system=system)
    return record.prompt
