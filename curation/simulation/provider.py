"""One Messages body in, one message out: the same for the same seed and body, whenever it is asked; only a body
that nothing tells from another is answered by how often it came before."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from curation.simulation.code_table import Codes
from curation.simulation.coding_writer import Writer
from curation.simulation.defects import RATES
from curation.simulation.generic_writer import OpenWriter
from curation.simulation.judge import Judge, LeakJudge
from curation.simulation.paraphrase import Reworder
from curation.simulation.request_parser import Asked, count_tokens, read_request
from curation.simulation.teacher import Teacher

ID_PREFIX = "msg_offline_"
"""Every message id begins so: nobody can take the stand-in's text for a model's."""


@dataclass(frozen=True)
class Answered:
    """A message and, for an answer of the teacher, what is true about each example in it."""

    message: dict[str, Any]
    truths: tuple[dict[str, Any], ...] = ()


@dataclass(frozen=True)
class Answers:
    """The stand-in's mind: the table, the seed and the rates."""

    codes: Codes
    seed: int
    rates: Mapping[str, float] = field(default_factory=lambda: RATES)
    collapses: bool = False
    """Whether the law of collapse holds for every request (collapse.py)."""

    @classmethod
    def load(cls, table: Path | None, *, seed: int, rates: Mapping[str, float] = RATES, collapses: bool = False) -> Answers:
        """Read the table, if any."""
        return cls(Codes.read(table), seed, rates, collapses)

    def __post_init__(self) -> None:
        reworder = Reworder.over(self.codes)
        writers = Writer(self.codes, reworder, self.seed), OpenWriter(reworder, self.seed)
        object.__setattr__(self, "_teacher", Teacher(self.codes, *writers, self.seed, self.rates, self.collapses))
        object.__setattr__(self, "_judge", Judge(self.codes, self.seed))

    def answer(self, body: dict[str, Any], *, nth: int = 0) -> Answered:
        """Answer a valid body. NTH counts how often it was asked before; only a request that nothing tells from another heeds it."""
        asked = read_request(body)
        if asked.role in ("instruction", "preference", "conversation", "answer"):
            return self._teach(asked, body, nth)
        judge: Judge = self._judge  # type: ignore[attr-defined]
        if asked.role == "judge":
            text = json.dumps(judge.scores(asked), ensure_ascii=False)
        elif asked.role == "judge_pair":
            text = json.dumps(judge.choice(asked), ensure_ascii=False)
        elif asked.role == "leak_judge":
            text = json.dumps(LeakJudge(self.codes, self.seed).answer(asked), ensure_ascii=False)
        elif asked.schema is not None:
            text = json.dumps(_any_value(asked.schema))
        else:
            text = "This is the offline stand-in. It knows no answer; it only shows that the way to a model works."
        return Answered(self._message(asked, body, text))

    def _teach(self, asked: Asked, body: dict[str, Any], nth: int) -> Answered:
        teacher: Teacher = self._teacher  # type: ignore[attr-defined]
        nth = nth if asked.is_bare else 0
        taught = teacher.teach(asked, nth=nth)
        message = self._message(asked, body, taught.text, stop=taught.stop, nth=nth)
        kind = "preference" if asked.role == "preference" else "instruction"
        common = {"message_id": message["id"], "kind": kind, "body_sha": asked.sha}
        truths = ({"item": n, "flaw": flaw, "source": source, **common} for n, (flaw, source) in enumerate(taught.truths))
        return Answered(message, tuple(truths))

    def _message(self, asked: Asked, body: dict[str, Any], text: str, *, stop: str = "end_turn", nth: int = 0) -> dict[str, Any]:
        limit = body["max_tokens"]
        if count_tokens(text) > limit:
            text, stop = text[: limit * 4], "max_tokens"
        explanation = "The offline stand-in refuses some requests, as models do."
        return {
            "id": f"{ID_PREFIX}{random.Random(f'{self.seed}:{asked.sha}{nth or str()}').getrandbits(96):024x}",
            "type": "message",
            "role": "assistant",
            "model": body["model"],
            "content": [{"type": "text", "text": text}] if text else [],
            "stop_reason": stop,
            "stop_sequence": None,
            "stop_details": {"type": "refusal", "category": "bio", "explanation": explanation} if stop == "refusal" else None,
            "usage": {
                "input_tokens": count_tokens(asked.text),
                "cache_creation_input_tokens": 0,
                "cache_read_input_tokens": 0,
                "output_tokens": limit if stop == "max_tokens" else count_tokens(text),
                "service_tier": "standard",
            },
        }


def _any_value(schema: Mapping[str, Any]) -> Any:
    """The plainest value of a schema."""
    if "enum" in schema:
        return schema["enum"][0]
    kind = schema.get("type")
    if kind == "object":
        return {name: _any_value(part) for name, part in schema.get("properties", {}).items()}
    if kind == "array":
        return [_any_value(schema.get("items", {}))]
    return {"integer": 0, "number": 0, "boolean": False, "null": None}.get(str(kind), "offline stand-in")
