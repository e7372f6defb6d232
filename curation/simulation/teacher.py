"""The stand-in as teacher: one example or several, candidates with probabilities, conversations, one answer more to a prompt."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from curation.simulation import mode_collapse
from curation.simulation.code_table import Codes
from curation.simulation.coding_writer import Writer, Written
from curation.simulation.defects import chance, draw_flaw, fraction
from curation.simulation.generic_writer import OpenWriter
from curation.simulation.request_parser import Asked

WHOLE = ("refusal", "truncated_json")
"""Flaws of a whole answer; of several examples in one answer the first decides."""


@dataclass(frozen=True)
class Taught:
    """The text of an answer and, for each example in it, what is true about it: (flaw, source)."""

    text: str
    stop: str
    truths: tuple[tuple[str | None, dict[str, Any]], ...]


@dataclass(frozen=True)
class Teacher:
    """Writes what a request asks for. What it writes depends on the seed, the request and how often it came before."""

    codes: Codes
    writer: Writer
    open_writer: OpenWriter
    seed: int
    rates: Mapping[str, float]
    collapses: bool = False

    def teach(self, asked: Asked, *, nth: int = 0) -> Taught:
        """Answer a request of the teacher."""
        if asked.role == "answer":
            return Taught(json.dumps({"answer": self.open_writer.answer(asked)}, ensure_ascii=False), "end_turn", ((None, {}),))
        each = _examples_asked(asked)
        flaws = [self._flaw(one, nth) for one in each]
        if flaws[0] == "refusal":
            return Taught("", "refusal", (("refusal", {}),))
        written: list[Written] = []
        for one, flaw in zip(each, flaws, strict=True):
            said = [_asked_in(w) for w in written]
            written.append(self._write(one, None if flaw in WHOLE else flaw, nth, said))
        text = json.dumps({_list_name(asked): self._items(asked, each, written, nth)}, ensure_ascii=False)
        if flaws[0] == "truncated_json":
            cut = text[: int(len(text) * random.Random(asked.sha).uniform(0.3, 0.9))]
            return Taught(cut, "max_tokens", tuple(("truncated_json", w.source) for w in written))
        return Taught(text, "end_turn", tuple((w.flaw, w.source) for w in written))

    def _flaw(self, asked: Asked, nth: int) -> str | None:
        kind = "preference" if asked.role == "preference" else "instruction"
        hidden = self._knows(asked) and bool(self.codes.hidden_names(asked.part("row")))
        # The number spreads the flaws evenly. Asked the same again, or told what is taken, the model draws anew.
        anew = fraction(self.seed, asked.sha, nth) if asked.is_bare or asked.part("taken") else None
        return draw_flaw(kind, asked.number, seed=self.seed, rates=self.rates, has_hidden_name=hidden, place=anew)

    def _write(self, asked: Asked, flaw: str | None, nth: int, said: list[str]) -> Written:
        """One example; under the law of collapse the idea that comes up first, unless it is known to be taken."""
        if not (self.collapses or asked.is_bare):
            return self._put(asked, flaw)
        taken = [*said, *(str(text).removesuffix(" …") for text in asked.part("taken", []))]
        for turn in range(mode_collapse.MODES):
            mode = mode_collapse.draw_mode(self.seed, asked.sha, nth, turn)
            written = self._put(mode_collapse.think_of(asked, mode), flaw)
            is_taken = any(text and " ".join(_asked_in(written).split()).startswith(text) for text in taken)
            if not is_taken or not chance(mode_collapse.KEEPS_AWAY, self.seed, asked.sha, nth, turn):
                break
        return written

    def _put(self, asked: Asked, flaw: str | None) -> Written:
        writer = self.writer if self._knows(asked) else self.open_writer
        if asked.role == "preference":
            return writer.pair(asked, flaw)
        if asked.part("existing_example") and not self._knows(asked):
            return self.open_writer.grow(asked, flaw)
        return writer.instruction(asked, flaw)

    def _items(self, asked: Asked, each: list[Asked], written: list[Written], nth: int) -> list[dict[str, Any]]:
        if asked.role == "conversation":
            return [{"turns": self._turns(one, w)} for one, w in zip(each, written, strict=True)]
        if asked.part("examples_to_write"):
            return [{"number": one.number, **w.fields} for one, w in zip(each, written, strict=True)]
        if asked.candidates:
            return self._candidates(asked, written[0])
        return [w.fields for w in written]

    def _candidates(self, asked: Asked, first: Written) -> list[dict[str, Any]]:
        """Several ideas with the probability of each; the one that was asked for, with its flaw, stands first as the least likely."""
        modes = mode_collapse.draw_tails(asked.candidates, self.seed, asked.sha)
        others = [self._put(mode_collapse.think_of(asked, mode), None) for mode in modes[1:]]
        least = min(mode_collapse.SHARES) / 2
        return [{"probability": least, **first.fields}, *(
            {"probability": round(mode_collapse.SHARES[mode], 4), **w.fields} for mode, w in zip(modes[1:], others, strict=True)
        )]  # fmt: skip

    def _turns(self, asked: Asked, written: Written) -> list[dict[str, str]]:
        """The example as the end of a conversation that led to it."""
        random_ = random.Random(f"{self.seed}:{asked.sha}:turns")
        count = asked.part("turns", 2)
        before = self.open_writer.small_turns(asked, random_, count - 1)
        return [*before, {"user": _asked_in(written), "assistant": written.fields["output"]}]

    def _knows(self, asked: Asked) -> bool:
        row = asked.part("row")
        return isinstance(row, dict) and {"code", "description", "chapter"} <= row.keys() and bool(self.codes.rows)


def _examples_asked(asked: Asked) -> list[Asked]:
    """The request as one request for each example in it."""
    entries = asked.part("examples_to_write")
    if not isinstance(entries, list):
        return [asked]
    return [
        replace(asked, sha=hashlib.sha256(f"{asked.sha}:{n}".encode()).hexdigest(), parts={**asked.parts, **entry})
        for n, entry in enumerate(entries)
    ]


def _asked_in(written: Written) -> str:
    """What the user says in an example."""
    return written.fields.get("input") or written.fields.get("instruction", "")


def _list_name(asked: Asked) -> str:
    return {"preference": "pairs", "conversation": "conversations"}.get(asked.role, "examples")
