"""What the teacher is asked, and what its answers become. Requests are made from plan cells; a raw answer becomes records, or a
counted failure with its reason. Nothing here sends anything.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson

from curation.errors import RowError
from curation.plan import Cell, normalized
from curation.project import ModelSpec, Project, settings_digest
from curation.prompts import Name, fill, prompt_digest
from curation.records import InstructionRecord, Kind, Message, PairRecord, candidates_of, make_instruction, make_pair
from curation.requests import Answer, Failure, Request

PROMPTS: dict[Kind, Name] = {"instruction": "teacher_instruction", "preference": "teacher_preference"}
_FIELDS: dict[Kind, tuple[str, tuple[str, ...]]] = {
    "instruction": ("examples", ("instruction", "input", "output")),
    "preference": ("pairs", ("input", "better", "worse")),
}


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


def requests_for(
    cells: Iterable[Cell], *, project: Project, seeds: Sequence[Mapping[str, str]], protected_texts: Collection[str] = ()
) -> Iterator[Request]:
    """One request per cell. Seed examples that are protected texts are not shown."""
    protected = {normalized(text) for text in protected_texts}
    usable = [dict(seed) for seed in seeds if protected.isdisjoint(normalized(v) for v in seed.values() if isinstance(v, str))]
    for cell in cells:
        yield Request(stage="generate", slot=cell.id, role="teacher", body=_body(cell, project, usable))


def generation_digest(project: Project, kind: Kind) -> str:
    """Digest of what shapes the teacher's answers of a kind, beside the plan."""
    return settings_digest(prompt_digest(PROMPTS[kind]), project.brief, project.intended_use, project.records, project.models.teacher.model)


def records_from(answer: Answer, cell: Cell, *, project: Project) -> list[Made | Failure]:
    """The records of an answer, each row by itself: one bad row does not take the others with it."""
    rows = read_rows(answer, *_FIELDS[cell.kind])
    if isinstance(rows, Failure):
        return [rows]
    made: list[Made | Failure] = []
    for item, row in enumerate(rows):
        try:
            made.append(_made(item, row, cell, project))
        except RowError as error:
            made.append(fail(answer, "row", f"item {item}: {error}"))
    return made


def read_rows(answer: Answer, name: str, fields: Sequence[str]) -> list[dict[str, str]] | Failure:
    """The list NAME of an answer whose rows carry FIELDS as texts, or why there is none."""
    value = read_json(answer)
    if isinstance(value, Failure):
        return value
    rows = value.get(name)
    if not isinstance(rows, list) or not rows:
        return fail(answer, "schema", f"`{name}` is {'empty' if rows == [] else 'not a list'}")
    for item, row in enumerate(rows):
        missing = [f for f in fields if not (isinstance(row, dict) and isinstance(row.get(f), str))]
        if missing:
            return fail(answer, "schema", f"item {item} has no text `{missing[0]}`")
    return [{f: row[f] for f in fields} for row in rows]


def read_json(answer: Answer) -> dict[str, Any] | Failure:
    """The JSON object of an answer, or the reason it has none: refusal, truncated, stopped, not_json, schema."""
    stop = answer.message.get("stop_reason")
    if stop == "refusal":
        details = answer.message.get("stop_details") or {}
        return fail(answer, "refusal", details.get("category") or "uncategorised")
    if stop in ("max_tokens", "model_context_window_exceeded"):
        tokens = (answer.message.get("usage") or {}).get("output_tokens")
        return fail(answer, "truncated", f"{stop} after {tokens} tokens")
    if stop not in ("end_turn", "stop_sequence"):
        return fail(answer, "stopped", f"stop reason {stop}")
    try:
        value = orjson.loads(_without_fence(answer.text))
    except orjson.JSONDecodeError as error:
        return fail(answer, "not_json", f"{error}: {answer.text[:80]!r}")
    return value if isinstance(value, dict) else fail(answer, "schema", f"is a {type(value).__name__}, not an object")


def fail(answer: Answer, reason: str, detail: str) -> Failure:
    """A failure that points at the call it came from."""
    return Failure(stage=answer.request.stage, slot=answer.request.slot, reason=reason, detail=detail, key=answer.request.key)


def message_body(model: ModelSpec, system: str, user: str, schema: dict[str, Any]) -> dict[str, Any]:
    """Body of a Messages request whose answer is JSON of a schema. No temperature: current models refuse it."""
    return {
        "model": model.model,
        "max_tokens": model.max_tokens,
        "system": [{"type": "text", "text": system}],
        "messages": [{"role": "user", "content": user}],
        "output_config": {"format": {"type": "json_schema", "schema": schema}},
    }


def object_schema(properties: Mapping[str, Any]) -> dict[str, Any]:
    """A closed JSON Schema object that requires all its properties, in their order."""
    return {"type": "object", "properties": dict(properties), "required": list(properties), "additionalProperties": False}


def _body(cell: Cell, project: Project, seeds: Sequence[Mapping[str, str]]) -> dict[str, Any]:
    name, fields = _FIELDS[cell.kind]
    system, user = fill(
        PROMPTS[cell.kind],
        brief=project.brief.strip(),
        intended_use=project.intended_use.strip(),
        system=project.records.system,
        output_format=project.records.output_format.strip(),
        grounded=cell.row is not None,
        examples=_choose_seeds(cell, project, seeds),
        row=cell.row,
        siblings=cell.siblings,
        attributes=cell.attributes,
        ordinal=cell.ordinal + 1,
        visit=cell.visit,
    )
    item = object_schema({f: {"type": "string"} for f in fields})
    return message_body(project.models.teacher, system, user, object_schema({name: {"type": "array", "items": item}}))


def _choose_seeds(cell: Cell, project: Project, seeds: Sequence[Mapping[str, str]]) -> list[dict[str, str]]:
    """A few seed examples, others for each cell and the same again for the same cell."""

    def turn(seed: Mapping[str, str]) -> bytes:
        return hashlib.sha256(f"{project.plan.seed}:{cell.id}:{sorted(seed.items())}".encode()).digest()

    return [dict(seed) for seed in sorted(seeds, key=turn)[: project.plan.examples_shown]]


def _made(item: int, row: dict[str, str], cell: Cell, project: Project) -> Made:
    rules = project.records
    empty = [name for name, value in row.items() if not value.strip() and name in ("output", "better", "worse")]
    if empty:
        raise RowError(empty[0], "is empty")
    if cell.kind == "preference":
        prompt = _prompt(rules.system, row["input"])
        pair, better = make_pair(prompt, row["better"].strip(), row["worse"].strip())
        return Made(item, pair, better, candidates_of(pair), row)
    output = row["output"].strip()
    record = make_instruction(_question(row, rules.system), output, system=rules.system, label=_label(output, rules.label_pattern))
    return Made(item, record, None, (), row)


def _question(row: Mapping[str, str], system: str | None) -> str:
    """The user's message: the input alone under a standing instruction, else the instruction and its input."""
    instruction, text = row["instruction"].strip(), row["input"].strip()
    if system is not None:
        return text or instruction
    return "\n\n".join(part for part in (instruction, text) if part)


def _label(output: str, pattern: str | None) -> str | None:
    """What the answer says it is. Never what was asked for: a copied or wrong answer must not pass for the right class."""
    found = re.search(pattern, output) if pattern else None
    return found.group(1) if found else None


def _prompt(system: str | None, text: str) -> tuple[Message, ...]:
    """A checked prompt: an empty input is the row's fault, not the program's."""
    record = make_instruction(text.strip(), "-", system=system)
    return record.prompt


def _without_fence(text: str) -> str:
    """The text without a Markdown fence around it, which some models add even when asked for bare JSON."""
    text = text.strip()
    if text.startswith("```") and text.endswith("```") and "\n" in text:
        return text.split("\n", 1)[1].removesuffix("```")
    return text
