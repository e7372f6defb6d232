"""The two kinds of record. A record never changes: its id is the hash of its content, and all that is learnt
about it (origins, scores, findings, answers) stands beside it in rows that point at it.
"""

from __future__ import annotations

import hashlib
from typing import Annotated, Any, Literal

import orjson
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from curation.errors import RowError

SCHEMA = 1
"""Version of the content that an id is computed over; part of the hash."""

Kind = Literal["instruction", "preference"]
KINDS: tuple[Kind, ...] = ("instruction", "preference")


class Message(BaseModel):
    """One turn of a conversation."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    role: Literal["system", "user", "assistant"]
    content: str = Field(min_length=1)


class InstructionRecord(BaseModel):
    """A prompt and the one assistant message that answers it; multi-turn context is part of the prompt."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["instruction"] = "instruction"
    prompt: tuple[Message, ...]
    completion: Message
    label: str | None = None
    """The class this row stands for (an ICD code, an intent), where the project has one."""

    @model_validator(mode="after")
    def _has_turns(self) -> InstructionRecord:
        _check_turns(self.prompt, (self.completion,))
        return self


class PairRecord(BaseModel):
    """A prompt and two rival completions in canonical order. Which one is better is a fact, not content."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["preference"] = "preference"
    prompt: tuple[Message, ...]
    completions: tuple[Message, Message]

    @model_validator(mode="after")
    def _is_canonical(self) -> PairRecord:
        _check_turns(self.prompt, self.completions)
        first, second = (c.content for c in self.completions)
        if first >= second:
            raise ValueError("the two completions must differ and be in canonical (code point) order; use make_pair")
        return self


Record = InstructionRecord | PairRecord
_RECORD: TypeAdapter[Record] = TypeAdapter(Annotated[Record, Field(discriminator="kind")])


def make_instruction(prompt: str, completion: str, *, system: str | None = None, label: str | None = None) -> InstructionRecord:
    """The usual one-turn record."""
    turns = ({"role": "system", "content": system},) if system else ()
    return _build(
        {
            "kind": "instruction",
            "prompt": (*turns, {"role": "user", "content": prompt}),
            "completion": {"role": "assistant", "content": completion},
            "label": label,
        }
    )  # type: ignore[return-value]


def make_pair(prompt: tuple[Message, ...], better: str, worse: str) -> tuple[PairRecord, int]:
    """Put two completions in canonical order; the second value is the index (0 or 1) of the better one."""
    first, second = sorted((better, worse))
    record = _build(
        {
            "kind": "preference",
            "prompt": prompt,
            "completions": ({"role": "assistant", "content": first}, {"role": "assistant", "content": second}),
        }
    )
    assert isinstance(record, PairRecord)
    return record, int(first != better)


def candidates_of(pair: PairRecord) -> tuple[InstructionRecord, InstructionRecord]:
    """The two rivals as instruction records, in canonical order, so that scores and findings apply to each."""
    first, second = (InstructionRecord(prompt=pair.prompt, completion=c) for c in pair.completions)
    return first, second


def record_id(record: Record) -> str:
    """sha256 (hex) of the canonical JSON (RFC 8785) of schema and content; text is taken as it is, unnormalized.

    All keys are ASCII and all values strings, null or the schema's integer; for such values orjson with sorted keys
    writes what RFC 8785 writes (a test holds the two equal).
    """
    return hashlib.sha256(canonical_json({"schema": SCHEMA, **record.model_dump(mode="json")})).hexdigest()


def canonical_json(value: Any) -> bytes:
    """RFC 8785 bytes of a value made of objects with ASCII keys, lists, strings, integers below 2^53, booleans, null."""
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)


def dump_record(record: Record) -> bytes:
    """The record as JSON, as the store keeps it."""
    return record.model_dump_json().encode()


def load_record(body: bytes | str) -> Record:
    """Read what `dump_record` wrote."""
    return _RECORD.validate_json(body)


def parse_record(value: dict[str, Any]) -> Record:
    """A record from plain values; raises RowError that names the field and the fact."""
    return _build(value)


def prompt_text(record: Record) -> str:
    """What the person asked: the user's turns joined; the standing system message is left out."""
    return "\n\n".join(m.content for m in record.prompt if m.role == "user")


def completion_text(record: Record) -> str:
    """The answer; for a pair both answers, canonical order, a blank line between."""
    rivals = (record.completion,) if isinstance(record, InstructionRecord) else record.completions
    return "\n\n".join(m.content for m in rivals)


def read_texts(body: bytes) -> tuple[str, tuple[str, ...]]:
    """`prompt_text` and the answers, one or a pair's two, of what `dump_record` wrote; the record itself is not made."""
    value = orjson.loads(body)
    rivals = value["completions"] if "completions" in value else (value["completion"],)
    return "\n\n".join(m["content"] for m in value["prompt"] if m["role"] == "user"), tuple(m["content"] for m in rivals)


def whole_text(record: Record) -> str:
    """What was asked and what was answered, a blank line between."""
    return f"{prompt_text(record)}\n\n{completion_text(record)}"


def _build(value: dict[str, Any]) -> Record:
    try:
        record = _RECORD.validate_python(value)
        _check_unicode(record)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"][1:]) or "row"
        raise RowError(where, first["msg"].removeprefix("Value error, ")) from error
    except UnicodeEncodeError as error:
        raise RowError("text", f"is not valid Unicode ({error})") from error
    return record


def _check_unicode(record: Record) -> None:
    """Lone surrogates have no UTF-8, and so no id."""
    answers = (record.completion,) if isinstance(record, InstructionRecord) else record.completions
    for text in (*(m.content for m in (*record.prompt, *answers)), getattr(record, "label", None) or ""):
        text.encode()


def _check_turns(prompt: tuple[Message, ...], completions: tuple[Message, ...]) -> None:
    if not prompt or prompt[-1].role != "user":
        raise ValueError("the prompt must end with a user message")
    if any(m.role == "system" for m in prompt[1:]):
        raise ValueError("only the first message of a prompt may be a system message")
    if any(c.role != "assistant" for c in completions):
        raise ValueError("a completion must be an assistant message")
