"""The evaluation file (JSON lines, CSV or Parquet), in one of two forms.

    codes      phrase, code, description, chapter, options (codes, the right one among them), descriptions
    answers    a question and its answer, under the names the run file or the protected set gives them; options if it has some.
               The rows of a snapshot's split are such: their messages are asked as they stand

A file counts only if the snapshot names its sha256 among the protected sets (`data.check_protected`).
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import orjson

from curation.errors import RowError
from curation.patterns import compile_pattern
from training.config import EvalSet, TrainingError

if TYPE_CHECKING:
    from curation.snapshot.manifest import ProtectedSet

Form = Literal["codes", "answers"]
CODE_FIELDS = ("phrase", "code", "chapter", "options", "descriptions")
QUESTION_FIELDS = ("prompt", "question", "instruction", "input", "text")
ANSWER_FIELDS = ("answer", "completion", "output", "response", "target", "chosen")


@dataclass(frozen=True)
class EvalItem:
    """One line of an evaluation file, as the metrics use it."""

    question: str
    answer: str
    """The reference answer; of a code item, the code."""
    options: tuple[str, ...] = ()
    """Rival answers as their likelihoods are compared; empty where the line has none."""
    right: int = 0
    """Which of the options is the right one."""
    rivals: tuple[str, str] | None = None
    """The right answer written out, and a wrong one."""
    chapter: str | None = None
    messages: tuple[dict[str, str], ...] = ()
    """The question as a conversation with its own system message, where the line holds one."""


@dataclass(frozen=True)
class Fields:
    """What a file's lines are called: found once, in its first line, and asked of all others."""

    form: Form
    question: str
    answer: str


def read_eval_items(settings: EvalSet, *, protected: ProtectedSet | None = None) -> list[EvalItem]:
    """The first n lines of an evaluation file; a line without what the metrics need is named."""
    items, fields = [], None
    for number, line in _lines(settings.file, settings.n):
        where = f"{settings.file.name} line {number}"
        fields = fields or find_fields(line, settings, protected=protected, where=where)
        items.append(_code_item(line, where) if fields.form == "codes" else _answer_item(line, fields, where))
    if not items:
        raise TrainingError(str(settings.file), "holds no lines", "name a protected set that has some")
    return items


def find_fields(line: Mapping[str, Any], settings: EvalSet, *, protected: ProtectedSet | None, where: str) -> Fields:
    """The form of a file and its fields' names: the run file's, else the protected set's, else the usual ones."""
    if settings.answer is None and all(name in line for name in CODE_FIELDS):
        return Fields("codes", "phrase", "code")
    compared = protected.text if protected is not None and isinstance(protected.text, str) else None
    question = settings.question or next((name for name in (compared, *QUESTION_FIELDS) if name in line), None)
    label = protected.label if protected is not None else None
    answer = settings.answer or next((name for name in (*ANSWER_FIELDS, label) if name in line), None)
    for key, name, usual in (("question", question, QUESTION_FIELDS), ("answer", answer, ANSWER_FIELDS)):
        if name is None or name not in line:
            fact = f"has no field {name}" if name else f"has no {key} ({', '.join(usual)})"
            raise TrainingError(where, f"{fact}; its fields are {', '.join(line)}", f"name the field: eval.{key} in the run file")
    assert question is not None and answer is not None
    return Fields("answers", question, answer)


def shape_of(items: Sequence[EvalItem]) -> Form:
    """The form the items came in."""
    return "codes" if items[0].chapter is not None else "answers"


def extract(text: str, pattern: str | None) -> str:
    """What is compared of an answer: the pattern's last match (its group, if it has one), or the whole text, spaces and case aside."""
    if pattern is not None:
        try:
            text = compile_pattern(pattern, multiline=False).find_last(text) or ""
        except RowError:  # it backtracks for too long on this answer, which then does not count
            text = ""
    return " ".join(text.split()).casefold()


def _lines(file: Path, n: int) -> Iterator[tuple[int, dict[str, Any]]]:
    read = {".csv": _csv_lines, ".parquet": _parquet_lines}.get(file.suffix, _json_lines)
    for _, numbered in zip(range(n), read(file), strict=False):
        yield numbered


def _json_lines(file: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    with file.open("rb") as stream:
        for number, line in enumerate(stream, start=1):
            if not line.strip():
                continue
            try:
                item = orjson.loads(line)
            except orjson.JSONDecodeError as error:
                raise TrainingError(f"{file.name} line {number}", f"is not JSON ({error})", f"mend {file}") from error
            if not isinstance(item, dict):
                raise TrainingError(f"{file.name} line {number}", "is no JSON object", f"mend {file}")
            yield number, item


def _csv_lines(file: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    with file.open(newline="", encoding="utf-8-sig") as stream:
        rows = csv.DictReader(stream)
        for row in rows:
            yield rows.line_num, row


def _parquet_lines(file: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        rows = pq.read_table(file, use_threads=False).to_pylist()
    except (pa.ArrowException, OSError) as error:
        raise TrainingError(str(file), f"is no Parquet file ({error})", "name a protected set that is one") from error
    yield from enumerate(rows, start=1)


def _code_item(line: Mapping[str, Any], where: str) -> EvalItem:
    if missing := [name for name in CODE_FIELDS if name not in line]:
        raise TrainingError(where, f"lacks {', '.join(missing)}", "mend the line, or give all lines the same fields")
    options, descriptions = _texts(line, "options", where), _texts(line, "descriptions", where)
    phrase, code, chapter = (_text(line, name, where) for name in ("phrase", "code", "chapter"))
    if code not in options or len(set(options)) < 2:
        raise TrainingError(where, "options do not hold the right code and a wrong one", "mend the line")
    if len(options) != len(descriptions):
        raise TrainingError(where, "options and descriptions differ in number", "mend the line")
    described = dict(zip(options, descriptions, strict=True))
    other = next(option for option in options if option != code)
    right, wrong = (f"Code: {one}\nDescription: {described[one]}\nChapter: {chapter}\n" for one in (code, other))
    lines = tuple(f"Code: {option}\n" for option in options)
    return EvalItem(phrase, code, lines, options.index(code), (right, wrong), chapter)


def _answer_item(line: Mapping[str, Any], fields: Fields, where: str) -> EvalItem:
    for name in (fields.question, fields.answer):
        if name not in line:
            raise TrainingError(where, f"lacks {name}", "mend the line, or give all lines the same fields")
    messages = _messages(line[fields.question])
    question = messages[-1]["content"] if messages else _text(line, fields.question, where)
    answer = _text(line, fields.answer, where)
    if {"chosen", "rejected"} <= set(line):
        rivals = tuple(_text(line, name, where).rstrip("\n") for name in ("chosen", "rejected"))
        return EvalItem(question, answer, rivals=(rivals[0], rivals[1]), messages=messages)
    if line.get("options") is None:
        return EvalItem(question, answer, messages=messages)
    options = _texts(line, "options", where)
    if answer not in options or len(set(options)) < 2:
        raise TrainingError(where, "options do not hold the right answer and a wrong one", "mend the line")
    return EvalItem(question, answer, options, options.index(answer), messages=messages)


def _messages(value: Any) -> tuple[dict[str, str], ...]:
    """A conversation, if the value is one."""
    if not isinstance(value, list) or not value or not all(isinstance(m, dict) and {"role", "content"} <= set(m) for m in value):
        return ()
    return tuple({"role": str(m["role"]), "content": str(m["content"])} for m in value)


def _text(line: Mapping[str, Any], name: str, where: str) -> str:
    value = line[name]
    if messages := _messages(value):
        value = messages[-1]["content"]
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str) or not value.strip():
        raise TrainingError(where, f"{name} is {value!r}; it must be a text", "mend the line")
    return value


def _texts(line: Mapping[str, Any], name: str, where: str) -> tuple[str, ...]:
    value = line[name]
    if not isinstance(value, list) or not all(isinstance(entry, str) for entry in value):
        raise TrainingError(where, f"{name} is {value!r}; it must be a list of texts", "mend the line")
    return tuple(value)
