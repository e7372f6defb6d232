"""Conversion between the two API formats: Anthropic's Messages and OpenAI's chat completions.

The product uses Messages everywhere. A server of the other kind receives a converted request; its response is stored as received
and converted on each read, so a bug here can be fixed without paying for new responses.
"""

from __future__ import annotations

from typing import Any, Literal

import orjson

Limit = Literal["max_tokens", "max_completion_tokens"]
_STOPS = {"stop": "end_turn", "length": "max_tokens", "content_filter": "refusal", "tool_calls": "tool_use", "function_call": "tool_use"}


def completion_body(body: dict[str, Any], *, limit: Limit) -> dict[str, Any]:
    """Convert a Messages request to a chat completions request.

    Args:
        body: the Messages request.
        limit: name of the token limit; OpenAI's own models refuse the old name, most other servers know only that one.
    """
    system = _text_of(body.get("system"))
    messages = [{"role": "system", "content": system}] if system else []
    messages += [{"role": turn["role"], "content": _text_of(turn["content"])} for turn in body["messages"]]
    asked = {"model": body["model"], "messages": messages, limit: body["max_tokens"]}
    wanted = body.get("output_config") or {}
    schema = (wanted.get("format") or {}).get("schema")
    if schema is not None:
        named = {"name": "answer", "schema": schema, "strict": _is_strict(schema)}
        asked["response_format"] = {"type": "json_schema", "json_schema": named}
    if wanted.get("effort") is not None:
        asked["reasoning_effort"] = wanted["effort"]
    return asked


def message_of(raw: bytes) -> Any:
    """Return the JSON of a response as a message, whichever server it came from; any other JSON unchanged.

    Raises:
        orjson.JSONDecodeError: it is not JSON.
    """
    value = orjson.loads(raw)
    if not isinstance(value, dict) or "type" in value or not isinstance(value.get("choices"), list):
        return value
    choices = [choice for choice in value["choices"] if isinstance(choice, dict) and isinstance(choice.get("message"), dict)]
    return _message(value, choices[0]) if choices else value


def _message(completion: dict[str, Any], choice: dict[str, Any]) -> dict[str, Any]:
    said, stop = choice["message"], choice.get("finish_reason")
    # Of another type than text it is left as it is, and the reader refuses the message.
    reason = _STOPS.get(stop or "stop", stop) if stop is None or isinstance(stop, str) else stop
    message: dict[str, Any] = {"id": completion.get("id"), "type": "message", "role": "assistant", "model": completion.get("model")}
    if isinstance(said.get("refusal"), str) and said["refusal"]:
        reason, category, text = "refusal", "declined", said["refusal"]
    else:
        category, text = "content_filter", _text_of(said.get("content"))
    thought = said.get("reasoning_content") or said.get("reasoning")
    content = [{"type": "thinking", "thinking": thought}] if isinstance(thought, str) else []
    message |= {"content": [*content, {"type": "text", "text": text}], "stop_reason": reason, "stop_sequence": None}
    if reason == "refusal":
        message["stop_details"] = {"category": category}
    usage = completion.get("usage")
    return {**message, "usage": _usage(usage)} if isinstance(usage, dict) else message


def _usage(usage: dict[str, Any]) -> dict[str, Any]:
    """Convert token counts. Cached tokens are part of `prompt_tokens` there and separate from `input_tokens` here."""
    read, asked = _part(usage, "prompt_tokens_details", "cached_tokens"), usage.get("prompt_tokens")
    fresh = max(asked - read, 0) if type(asked) is int else asked
    thought = _part(usage, "completion_tokens_details", "reasoning_tokens")
    return {
        "input_tokens": fresh,
        "output_tokens": usage.get("completion_tokens"),
        "cache_read_input_tokens": read,
        "output_tokens_details": {"thinking_tokens": thought},
    }


def _part(usage: dict[str, Any], group: str, name: str) -> int:
    details = usage.get(group)
    count = details.get(name) if isinstance(details, dict) else None
    return count if type(count) is int and count >= 0 else 0


def _text_of(content: Any) -> str:
    if not isinstance(content, list):
        return content if isinstance(content, str) else ""
    return "\n\n".join(block["text"] for block in content if isinstance(block, dict) and isinstance(block.get("text"), str))


def _is_strict(schema: Any) -> bool:
    """Return whether every object lists all its keys as required and is closed: strict mode refuses other schemas."""
    if isinstance(schema, list):
        return all(_is_strict(part) for part in schema)
    if not isinstance(schema, dict):
        return True
    if schema.get("type") == "object":
        keys = set(schema.get("properties") or ())
        if schema.get("additionalProperties") is not False or keys != set(schema.get("required") or ()):
            return False
    return all(_is_strict(part) for part in schema.values())
