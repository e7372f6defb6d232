"""One Messages body in, one message out: the same for the same seed and body, whenever and however often it is asked."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from curation.standin.flaws import RATES, draw_flaw
from curation.standin.judge import Judge
from curation.standin.open_writer import OpenWriter
from curation.standin.reading import Asked, count_tokens, read_request
from curation.standin.tables import Codes
from curation.standin.text import Reworder
from curation.standin.writer import Writer, Written

ID_PREFIX = "msg_offline_"
"""Every message id begins so: nobody can take the stand-in's text for a model's."""


@dataclass(frozen=True)
class Answered:
    """A message and, for an answer of the teacher, what is true about it."""

    message: dict[str, Any]
    truth: dict[str, Any] | None = None


@dataclass(frozen=True)
class Answers:
    """The stand-in's mind: the table, the seed and the rates."""

    codes: Codes
    seed: int
    rates: Mapping[str, float] = field(default_factory=lambda: RATES)

    @classmethod
    def load(cls, table: Path | None, *, seed: int, rates: Mapping[str, float] = RATES) -> Answers:
        """Read the table, if any."""
        return cls(Codes.read(table), seed, rates)

    def __post_init__(self) -> None:
        reworder = Reworder.over(self.codes)
        object.__setattr__(self, "_writer", Writer(self.codes, reworder, self.seed))
        object.__setattr__(self, "_open_writer", OpenWriter(reworder, self.seed))
        object.__setattr__(self, "_judge", Judge(self.codes, self.seed))

    def answer(self, body: dict[str, Any]) -> Answered:
        """Answer a valid body."""
        asked = read_request(body)
        if asked.role in ("instruction", "preference"):
            return self._teach(asked, body)
        judge: Judge = self._judge  # type: ignore[attr-defined]
        if asked.role == "judge":
            text = json.dumps(judge.scores(asked), ensure_ascii=False)
        elif asked.role == "judge_pair":
            text = json.dumps(judge.choice(asked), ensure_ascii=False)
        elif asked.schema is not None:
            text = json.dumps(_any_value(asked.schema))
        else:
            text = "This is the offline stand-in. It knows no answer; it only shows that the way to a model works."
        return Answered(self._message(asked, body, text))

    def _teach(self, asked: Asked, body: dict[str, Any]) -> Answered:
        row = asked.part("row")
        on_codes = isinstance(row, dict) and {"code", "description", "chapter"} <= row.keys() and bool(self.codes.rows)
        hidden = bool(on_codes and self.codes.hidden_names(row))
        flaw = draw_flaw(asked.role, asked.number, seed=self.seed, rates=self.rates, has_hidden_name=hidden)
        if flaw == "refusal":
            message = self._message(asked, body, "", stop="refusal")
            return Answered(message, self._truth(message, asked, "refusal", {}))
        writer: Writer | OpenWriter = self._writer if on_codes else self._open_writer  # type: ignore[attr-defined]
        write = writer.instruction if asked.role == "instruction" else writer.pair
        written: Written = write(asked, flaw if flaw != "truncated_json" else None)
        name = "examples" if asked.role == "instruction" else "pairs"
        text = json.dumps({name: [written.fields]}, ensure_ascii=False)
        if flaw == "truncated_json":
            message = self._message(asked, body, text[: int(len(text) * random.Random(asked.sha).uniform(0.3, 0.9))], stop="max_tokens")
            return Answered(message, self._truth(message, asked, flaw, written.source))
        message = self._message(asked, body, text)
        return Answered(message, self._truth(message, asked, written.flaw, written.source))

    def _message(self, asked: Asked, body: dict[str, Any], text: str, *, stop: str = "end_turn") -> dict[str, Any]:
        limit = body["max_tokens"]
        if count_tokens(text) > limit:
            text, stop = text[: limit * 4], "max_tokens"
        explanation = "The offline stand-in refuses some requests, as models do."
        return {
            "id": f"{ID_PREFIX}{random.Random(f'{self.seed}:{asked.sha}').getrandbits(96):024x}",
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

    def _truth(self, message: dict[str, Any], asked: Asked, flaw: str | None, source: dict[str, Any]) -> dict[str, Any]:
        return {"message_id": message["id"], "item": 0, "kind": asked.role, "flaw": flaw, "source": source, "body_sha": asked.sha}


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
