"""Structured output: requests for JSON of a schema, and the JSON of an answer or the reason why it has none.

Used by the teacher, the judges and the leak judge.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from curation.config.project import ModelSpec
from curation.requests import Answer, Failure

CACHED_FROM = 4096
"""Characters from which a system prompt is marked for the cache: about the 1,024 tokens below which Anthropic caches nothing."""


def message_body(model: ModelSpec, system: str, user: str, schema: dict[str, Any]) -> dict[str, Any]:
    """Return the body of a Messages request whose answer is JSON of a schema. No temperature: current models refuse it.

    Args:
        model: the model, with its `max_tokens`.
        system: system prompt, shared by all requests of a stage; a long one is marked for the provider's cache.
        user: user prompt.
        schema: JSON Schema of the answer.
    """
    block: dict[str, Any] = {"type": "text", "text": system}
    if model.provider_info.caches_prompts and len(system) >= CACHED_FROM:
        # A batch may take longer than the cache's default lifetime of five minutes.
        block["cache_control"] = {"type": "ephemeral", "ttl": "1h"} if model.batch else {"type": "ephemeral"}
    return {
        "model": model.model,
        "max_tokens": model.max_tokens,
        "system": [block],
        "messages": [{"role": "user", "content": user}],
        "output_config": {"format": {"type": "json_schema", "schema": schema}},
    }


def object_schema(properties: Mapping[str, Any]) -> dict[str, Any]:
    """Return the schema of a closed object that requires all its properties, in their order."""
    return {"type": "object", "properties": dict(properties), "required": list(properties), "additionalProperties": False}


def list_schema(name: str, item: Mapping[str, Any]) -> dict[str, Any]:
    """Return the schema of an object with one list, NAME, of closed objects."""
    return object_schema({name: {"type": "array", "items": object_schema(item)}})


def read_rows(answer: Answer, name: str, fields: Sequence[str]) -> list[dict[str, str]] | Failure:
    """Return the list NAME of an answer whose items have these fields as texts, or why there is none.

    Args:
        answer: the answer.
        name: key of the list.
        fields: keys of each item.
    """
    return read_items(answer, name, {key: {"type": "string"} for key in fields})


def read_items(answer: Answer, name: str, fields: Mapping[str, Any]) -> list[dict[str, Any]] | Failure:
    """Return the list NAME of an answer, each item with its texts and numbers, or why there is none.

    Args:
        answer: the answer.
        name: key of the list.
        fields: key of each item to its JSON Schema, of type "string", "integer" or "number".
    """
    value = read_json(answer)
    if isinstance(value, Failure):
        return value
    rows = value.get(name)
    if not isinstance(rows, list) or not rows:
        return fail(answer, "schema", f"`{name}` is {'empty' if rows == [] else 'not a list'}")
    for n, row in enumerate(rows):
        for key, schema in fields.items():
            found = row.get(key) if isinstance(row, dict) else None
            # Checked here although the API enforces the schema: compatible servers and batches may not.
            is_text = schema["type"] == "string"
            if not isinstance(found, str if is_text else int | float) or isinstance(found, bool):
                return fail(answer, "schema", f"item {n} has no {'text' if is_text else 'number'} `{key}`")
    return [{key: row[key] for key in fields} for row in rows]


def read_json(answer: Answer) -> dict[str, Any] | Failure:
    """Return the JSON object of an answer, or why it has none: refusal, truncated, stopped, not_json, schema."""
    # The stop reason first: a refusal and a truncated answer are often valid text, and must not count as bad JSON.
    stop = answer.message.get("stop_reason")
    if stop == "refusal":
        details = _as_mapping(answer.message.get("stop_details"))
        return fail(answer, "refusal", str(details.get("category") or "uncategorised"))
    if stop in ("max_tokens", "model_context_window_exceeded"):
        tokens = _as_mapping(answer.message.get("usage")).get("output_tokens")
        return fail(answer, "truncated", f"{stop} after {tokens} tokens")
    if stop not in ("end_turn", "stop_sequence"):
        return fail(answer, "stopped", f"stop reason {stop}")
    text = answer.text.strip()
    if text.startswith("```") and text.endswith("```") and "\n" in text:  # some models add a Markdown fence even to bare JSON
        text = text.split("\n", 1)[1].removesuffix("```")
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        return fail(answer, "not_json", f"{error}: {answer.text[:80]!r}")
    return value if isinstance(value, dict) else fail(answer, "schema", f"is a {type(value).__name__}, not an object")


def fail(answer: Answer, reason: str, detail: str) -> Failure:
    """Return a failure that points to the call of an answer.

    Args:
        answer: the unusable answer.
        reason: short code.
        detail: sentence for people.
    """
    return Failure(stage=answer.request.stage, slot=answer.request.slot, reason=reason, detail=detail, key=answer.request.key)


def _as_mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
