"""Shapes of rows on import: how each is recognized, and how it becomes a record.

| shape             | columns                                                                              |
|-------------------|--------------------------------------------------------------------------------------|
| alpaca            | instruction, output, and if present input, system, history                           |
| sharegpt          | conversations (from/value), and if present system                                    |
| messages          | messages (role/content)                                                              |
| prompt-completion | prompt and completion, each text or messages, and if present system                  |
| preference        | chosen and rejected (text, a message, messages, or whole conversations) and a prompt: |
|                   | prompt, conversations, or instruction with input; none when both are conversations   |
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

from curation.errors import RowError
from curation.formats import Shape
from curation.records import InstructionRecord, Message, PairRecord, make_pair, parse_record

Turn = dict[str, str]

_ROLES = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "prompter": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "model": "assistant",
}

_TOOL_ROLES = {"tool", "function", "function_call", "function_response", "observation", "tool_call", "tool_response", "ipython"}

_SPEAKER = re.compile(r"(?:^|\n\n)(Human|Assistant):[ ]?")


def turns_of(value: Any, field: str) -> list[Turn]:
    """Return the turns of a list of messages (role/content or from/value) or of one message; tool calls are refused by name."""
    items = [value] if isinstance(value, Mapping) else value
    if not isinstance(items, Sequence) or isinstance(items, str):
        raise RowError(field, f"must be a list of messages, not {type(value).__name__}")
    return [_turn(item, f"{field}.{number}") for number, item in enumerate(items)]


def transcript_turns(text: str, field: str) -> list[Turn]:
    """Return the turns of Anthropic's HH form: one string with `Human:` and `Assistant:` at the start of paragraphs."""
    # split() with one group gives [before, speaker, text, speaker, text, …].
    parts = _SPEAKER.split(text.strip("\n"))
    if parts[0].strip() or len(parts) < 3:
        raise RowError(field, "is not a conversation of Human: and Assistant: paragraphs")
    roles = ["user" if speaker == "Human" else "assistant" for speaker in parts[1::2]]
    return [{"role": role, "content": content.strip("\n")} for role, content in zip(roles, parts[2::2], strict=True)]


def is_transcript(value: Any) -> bool:
    """Return whether a string is in the HH form."""
    return isinstance(value, str) and value.lstrip("\n").startswith("Human:") and "\n\nAssistant:" in value


def text_of(value: Any, field: str) -> str:
    """A string; null counts as empty."""
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    raise RowError(field, f"must be text, not {type(value).__name__}")


def _turn(item: Any, field: str) -> Turn:
    if not isinstance(item, Mapping):
        raise RowError(field, f"must be a message, not {type(item).__name__}")
    if named := next((key for key in ("tool_calls", "function_call", "tool_call_id") if item.get(key)), None):
        raise RowError(field, f"carries {named}; tool calls are not supported")
    role, content = item.get("role", item.get("from")), item.get("content", item.get("value"))
    if isinstance(role, str) and role.lower() in _TOOL_ROLES:
        raise RowError(field, f"has the role {role}; tool calls are not supported")
    if not isinstance(role, str) or role.lower() not in _ROLES:
        raise RowError(field, f"has the role {role!r}; known are {', '.join(sorted(_ROLES))}")
    return {"role": _ROLES[role.lower()], "content": _content(content, field)}


def _content(content: Any, field: str) -> str:
    """A message's text; OpenAI's list of parts is joined if all parts are text."""
    if not isinstance(content, list):
        return text_of(content, field)
    for part in content:
        if not isinstance(part, Mapping) or part.get("type") != "text":
            kind = part.get("type") if isinstance(part, Mapping) else type(part).__name__
            raise RowError(field, f"has a part of type {kind}; only text is supported")
    return "".join(text_of(part.get("text"), field) for part in content)


SHAPES: tuple[Shape, ...] = get_args(Shape)

NEEDS: dict[Shape, tuple[str, ...]] = {
    "preference": ("chosen", "rejected"),
    "messages": ("messages",),
    "sharegpt": ("conversations",),
    "prompt-completion": ("prompt", "completion"),
    "alpaca": ("instruction", "output"),
}
"""Columns that identify a shape, in the order the shapes are tried."""

USED: dict[Shape, tuple[str, ...]] = {
    "preference": ("chosen", "rejected", "prompt", "conversations", "instruction", "input", "system", "history"),
    "messages": ("messages", "system"),
    "sharegpt": ("conversations", "system"),
    "prompt-completion": ("prompt", "completion", "system"),
    "alpaca": ("instruction", "output", "input", "system", "history"),
}
"""Columns that become part of a record; every other column is metadata."""


@dataclass(frozen=True)
class PairWithFact:
    """A pair, with the index (0 or 1) of its chosen completion."""

    record: PairRecord
    chosen: int


def find_shape(row: Mapping[str, Any]) -> Shape | None:
    """Return the first shape whose columns are all present and not null."""
    return next((shape for shape, names in NEEDS.items() if all(row.get(name) is not None for name in names)), None)


def record_from(
    row: Mapping[str, Any], *, shape: Shape, system_instruction: bool = False, label: str | None = None
) -> InstructionRecord | PairWithFact:
    """Return the record of a row.

    Args:
        row: the row under our column names.
        shape: its shape.
        system_instruction: use alpaca's instruction as the system message.
        label: the row's class.

    Raises:
        RowError: the row is not usable; names the field and the problem.
    """
    if missing := [name for name in NEEDS[shape] if row.get(name) is None]:
        raise RowError(missing[0], f"is missing; {shape} rows have {', '.join(NEEDS[shape])}")
    if shape == "preference":
        return _pair(row, system_instruction)
    if row.get("label") is False and shape != "alpaca":
        raise RowError("label", "is false: unpaired feedback marks this answer as bad")
    if shape == "alpaca":
        turns = [*_alpaca_prompt(row, system_instruction), _answer(text_of(row["output"], "output"))]
    elif shape == "prompt-completion":
        turns = _prompt(row["prompt"], row) + _completion(row["completion"], "completion")
    else:
        field = NEEDS[shape][0]
        turns = _with_system(turns_of(row[field], field), row)
    if not turns or turns[-1]["role"] != "assistant":
        raise RowError(NEEDS[shape][-1], "does not end with an assistant message")
    record = parse_record({"kind": "instruction", "prompt": turns[:-1], "completion": turns[-1], "label": label})
    assert isinstance(record, InstructionRecord)
    return record


def _alpaca_prompt(row: Mapping[str, Any], system_instruction: bool) -> list[Turn]:
    instruction, extra = text_of(row["instruction"], "instruction"), text_of(row.get("input"), "input")
    history = [
        {"role": role, "content": text_of(text, "history")}
        for exchange in _exchanges(row.get("history"))
        for role, text in zip(("user", "assistant"), exchange, strict=True)
    ]
    if not system_instruction:
        text = f"{instruction}\n\n{extra}" if extra else instruction
        return _with_system([*history, {"role": "user", "content": text}], row)
    if not extra:
        raise RowError("input", "is empty; the instruction is the system message here, so the user message would be empty")
    if row.get("system"):
        raise RowError("system", "is given, but the instruction is the system message here")
    return [{"role": "system", "content": instruction}, *history, {"role": "user", "content": extra}]


def _exchanges(value: Any) -> list[list[Any]]:
    exchanges = value or []
    if not isinstance(exchanges, list) or any(not isinstance(e, list) or len(e) != 2 for e in exchanges):
        raise RowError("history", "must be a list of [user, assistant] texts")
    return exchanges


def _with_system(turns: list[Turn], row: Mapping[str, Any]) -> list[Turn]:
    system = text_of(row.get("system"), "system")
    if system and turns and turns[0]["role"] == "system":
        raise RowError("system", "is given, but the conversation has a system message")
    return [{"role": "system", "content": system}, *turns] if system else turns


def _prompt(value: Any, row: Mapping[str, Any]) -> list[Turn]:
    if is_transcript(value):
        turns = transcript_turns(value.rstrip().removesuffix("Assistant:").rstrip("\n"), "prompt")
    else:
        turns = [{"role": "user", "content": value}] if isinstance(value, str) else turns_of(value, "prompt")
    return _with_system(turns, row)


def _completion(value: Any, field: str) -> list[Turn]:
    turns = [_answer(value)] if isinstance(value, str) else turns_of(value, field)
    if len(turns) != 1:
        raise RowError(field, f"must be one assistant message; it has {len(turns)} messages")
    return turns


def _answer(text: str) -> Turn:
    return {"role": "assistant", "content": text}


def _pair(row: Mapping[str, Any], system_instruction: bool) -> PairWithFact:
    (before, better), (other, worse) = (_rival(row[name], name) for name in ("chosen", "rejected"))
    if before != other:
        raise RowError("rejected", "does not answer the same conversation as chosen")
    prompt = _given_prompt(row, system_instruction)
    if before:
        prompt = _agreed(prompt, _with_system(before, row))
    if not prompt:
        raise RowError("prompt", "is missing, and chosen and rejected are not whole conversations")
    parsed = parse_record({"kind": "instruction", "prompt": prompt, "completion": _answer(better)})
    messages: tuple[Message, ...] = parsed.prompt
    record, chosen = make_pair(messages, better, worse)
    return PairWithFact(record, chosen)


def _rival(value: Any, field: str) -> tuple[list[Turn], str]:
    """Return the turns before a response (none for a bare response) and the response."""
    if isinstance(value, str):
        if not is_transcript(value):
            return [], value
        turns = transcript_turns(value, field)
    else:
        turns = turns_of(value, field)
    if not turns or turns[-1]["role"] != "assistant":
        raise RowError(field, "does not end with an assistant message")
    return turns[:-1], turns[-1]["content"]


def _given_prompt(row: Mapping[str, Any], system_instruction: bool) -> list[Turn]:
    if row.get("prompt") is not None:
        return _prompt(row["prompt"], row)
    if row.get("conversations") is not None:
        return _with_system(turns_of(row["conversations"], "conversations"), row)
    return _alpaca_prompt(row, system_instruction) if row.get("instruction") is not None else []


def _agreed(prompt: list[Turn], before: list[Turn]) -> list[Turn]:
    """Return one prompt from the prompt column and the conversation before the responses; UltraFeedback has both."""
    if not prompt or prompt == before:
        return before
    users = [turn for turn in before if turn["role"] == "user"]
    if len(prompt) == 1 and prompt[0] in (users[:1] + users[-1:]):
        return before
    raise RowError("prompt", "is not what chosen and rejected answer")
