"""Requests to a model and their results, as values, and the values that the ledger of calls returns.

Pure packages build requests and parse answers; only the stages send them.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from curation.records import canonical_json

Role = Literal["teacher", "judge", "leak_judge"]


class Request(BaseModel):
    """One call to a model, before it is sent.

    The slot (plan cell, or record, criterion and order) distinguishes equal prompts. It is part of the key and never sent.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    stage: str
    """Stage that makes the call: "generate", "score", …"""
    slot: str
    """For example "instruction:00042", or a record id with the rubric's digest and the order."""
    role: Role
    body: dict[str, Any]
    """Body for the provider's Messages API: model, max_tokens, system, messages, output_config."""
    attempt: int = 0
    """Number of deliberate repeats (a refill, an unusable answer); retries of one call keep their number."""

    @property
    def key(self) -> str:
        """sha256 (hex) of stage, slot, attempt, model and body: requests with equal keys are one call, paid once."""
        parts = [self.stage, self.slot, self.attempt, self.body["model"], self.body]
        return hashlib.sha256(canonical_json(parts)).hexdigest()


class Answer(BaseModel):
    """A response that is on disk, with its request."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    request: Request
    message: dict[str, Any]
    """The message as it arrived: id, content, stop_reason, usage."""

    @property
    def text(self) -> str:
        """The joined text blocks."""
        blocks = self.message.get("content")
        texts = [b.get("text") for b in blocks if isinstance(b, dict) and b.get("type") == "text"] if isinstance(blocks, list) else []
        return "".join(text for text in texts if isinstance(text, str))


class Failure(BaseModel):
    """A call, an answer or a row that is unusable: counted with its reason, and never treated as a score of 0."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    stage: str
    slot: str
    reason: str
    """Short code that groups failures: "refusal", "truncated", "not_json", "schema", "row", "http_400", "unreachable"…"""
    detail: str = ""
    key: str | None = None
    """Key of the call that failed, if there was one."""


def cells_in(slot: str) -> tuple[str, ...]:
    """Return the plan cells of a teacher's slot: "instruction:00004+00005#2" names two."""
    kind, _, ordinals = slot.partition("#")[0].partition(":")
    return tuple(f"{kind}:{ordinal}" for ordinal in ordinals.split("+"))


@dataclass(frozen=True)
class ClaimedCall:
    """A call that this process may send."""

    seq: int
    """Its number in the ledger."""
    request: Request
    held_nano: int
    """Amount reserved for it: its upper bound in nano-dollars."""


@dataclass(frozen=True)
class Claim:
    """Result of claiming the first `looked_at` of the offered requests."""

    calls: tuple[ClaimedCall, ...] = ()
    looked_at: int = 0
    reused: int = 0
    """Requests that have an answer."""
    failed: int = 0
    """Requests that failed since the run began, or failed and were billed; they are not sent again under this key."""
    elsewhere: tuple[int, ...] = ()
    """Places, in the offered requests, of calls that are in flight in this process or another."""
    over_budget: bool = False
    """The next call could exceed the budget."""


@dataclass(frozen=True)
class Recovered:
    """Counts of calls taken over from dead processes, or given up by this one."""

    uncertain: int = 0
    """Sent, with no response: charged at their upper bound."""
    freed: int = 0
    """Not sent: free to be claimed."""


@dataclass(frozen=True)
class OpenBatch:
    """A batch whose results have not been read."""

    number: int
    batch_id: str | None
    """The provider's id; None where a process died before it was written down."""
    requests: int
    created: float
    """Seconds since the epoch."""
