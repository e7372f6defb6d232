"""Conversations as people write them, made into turns with a role and a text."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from curation.errors import RowError

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
    """Turns from a list of messages (role/content or from/value) or from one message; tool calls are refused by name."""
    items = [value] if isinstance(value, Mapping) else value
    if not isinstance(items, Sequence) or isinstance(items, str):
        raise RowError(field, f"must be a list of messages, not {type(value).__name__}")
    return [_turn(item, f"{field}.{number}") for number, item in enumerate(items)]


def transcript_turns(text: str, field: str) -> list[Turn]:
    """Turns from Anthropic's HH form, one string with `Human:` and `Assistant:` at the start of paragraphs."""
    parts = _SPEAKER.split(text.strip("\n"))
    if parts[0].strip() or len(parts) < 3:
        raise RowError(field, "is no conversation of Human: and Assistant: paragraphs")
    roles = ["user" if speaker == "Human" else "assistant" for speaker in parts[1::2]]
    return [{"role": role, "content": content.strip("\n")} for role, content in zip(roles, parts[2::2], strict=True)]


def is_transcript(value: Any) -> bool:
    """Whether a string is in the HH form."""
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
