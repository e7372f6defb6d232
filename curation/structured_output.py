"""What a model's answer holds: the JSON that was asked for, or the reason why it has none. Shared by the teacher and the judges."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from curation.config.project import ModelSpec
from curation.requests import Answer, Failure


def read_rows(answer: Answer, name: str, fields: Sequence[str]) -> list[dict[str, str]] | Failure:
    """The list NAME of an answer whose rows carry FIELDS as texts, or why there is none."""
    return read_items(answer, name, {key: {"type": "string"} for key in fields})


def read_items(answer: Answer, name: str, fields: Mapping[str, Any]) -> list[dict[str, Any]] | Failure:
    """The list NAME of an answer whose rows carry FIELDS: texts as they are, numbers where they are asked for."""
    value = read_json(answer)
    if isinstance(value, Failure):
        return value
    rows = value.get(name)
    if not isinstance(rows, list) or not rows:
        return fail(answer, "schema", f"`{name}` is {'empty' if rows == [] else 'not a list'}")
    for n, row in enumerate(rows):
        for key, schema in fields.items():
            found = row.get(key) if isinstance(row, dict) else None
            is_text = schema["type"] == "string"
            if not isinstance(found, str if is_text else int | float) or isinstance(found, bool):
                return fail(answer, "schema", f"item {n} has no {'text' if is_text else 'number'} `{key}`")
    return [{key: row[key] for key in fields} for row in rows]


def read_json(answer: Answer) -> dict[str, Any] | Failure:
    """The JSON object of an answer, or the reason it has none: refusal, truncated, stopped, not_json, schema."""
    stop = answer.message.get("stop_reason")
    if stop == "refusal":
        details = _mapping(answer.message.get("stop_details"))
        return fail(answer, "refusal", str(details.get("category") or "uncategorised"))
    if stop in ("max_tokens", "model_context_window_exceeded"):
        tokens = _mapping(answer.message.get("usage")).get("output_tokens")
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


def _without_fence(text: str) -> str:
    """The text without a Markdown fence around it, which some models add even when asked for bare JSON."""
    text = text.strip()
    if text.startswith("```") and text.endswith("```") and "\n" in text:
        return text.split("\n", 1)[1].removesuffix("```")
    return text


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


CACHED_FROM = 4096
"""Characters of a system prompt from which it is marked for the cache: about the 1,024 tokens below which a provider caches nothing."""


def message_body(model: ModelSpec, system: str, user: str, schema: dict[str, Any]) -> dict[str, Any]:
    """Body of a Messages request whose answer is JSON of a schema. No temperature: current models refuse it.

    A long system prompt is marked for the provider's cache; all requests of a stage share it.
    """
    shared: dict[str, Any] = {"type": "text", "text": system}
    if model.provider_info.caches_prompts and len(system) >= CACHED_FROM:
        shared["cache_control"] = {"type": "ephemeral", "ttl": "1h"} if model.batch else {"type": "ephemeral"}
    return {
        "model": model.model,
        "max_tokens": model.max_tokens,
        "system": [shared],
        "messages": [{"role": "user", "content": user}],
        "output_config": {"format": {"type": "json_schema", "schema": schema}},
    }


def object_schema(properties: Mapping[str, Any]) -> dict[str, Any]:
    """A closed JSON Schema object that requires all its properties, in their order."""
    return {"type": "object", "properties": dict(properties), "required": list(properties), "additionalProperties": False}


def list_schema(name: str, item: Mapping[str, Any]) -> dict[str, Any]:
    """An object that holds one list."""
    return object_schema({name: {"type": "array", "items": object_schema(item)}})
