"""What is asked of a model and what came back, as values. The core makes requests and reads answers; only the shell sends."""

from __future__ import annotations

import hashlib
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from curation.records import canonical_json

Role = Literal["teacher", "judge", "leak_judge"]


class Request(BaseModel):
    """One call to a model, before it is sent.

    The slot (plan cell, or record, criterion and order) keeps equal prompts apart. It is part of the key and never sent.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    stage: str
    """The verb that asks: "generate" or "score"."""
    slot: str
    """For example "instruction:00042" or a record id with the rubric's digest and the order."""
    role: Role
    body: dict[str, Any]
    """Body of the provider's Messages API: model, max_tokens, system, messages, output_config."""
    attempt: int = 0
    """Counts deliberate repeats (a refill, an answer that could not be used); retries of one call keep their number."""

    @property
    def key(self) -> str:
        """sha256 (hex) of stage, slot, attempt, model and body: two equal keys are one call, bought once."""
        parts = [self.stage, self.slot, self.attempt, self.body["model"], self.body]
        return hashlib.sha256(canonical_json(parts)).hexdigest()


class Answer(BaseModel):
    """A response that is already on disk."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    request: Request
    message: dict[str, Any]
    """The raw message: id, content, stop_reason, usage."""

    @property
    def text(self) -> str:
        """The text blocks joined."""
        blocks = self.message.get("content")
        texts = [b.get("text") for b in blocks if isinstance(b, dict) and b.get("type") == "text"] if isinstance(blocks, list) else []
        return "".join(text for text in texts if isinstance(text, str))


class Failure(BaseModel):
    """Something that did not become what it should: counted, with its reason, and never a score of 0."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    stage: str
    slot: str
    reason: str
    """A short code that groups: "refusal", "truncated", "not_json", "schema", "row", "http_400", "unreachable"…"""
    detail: str = ""
    key: str | None = None
    """The call that failed, where there was one."""


def cells_in(slot: str) -> tuple[str, ...]:
    """The plan cells that a slot of the teacher is about: "instruction:00004+00005#2" is about two."""
    kind, _, ordinals = slot.partition("#")[0].partition(":")
    return tuple(f"{kind}:{ordinal}" for ordinal in ordinals.split("+"))
