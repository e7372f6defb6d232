"""The leak judge: a model's word on the rows that likeness leaves open, just below the cut. It is asked per kind of task, since
what makes two texts the same differs: equal solutions for math, equal behaviour for code, one thing for a phrase.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal, get_args

from curation.config.project import ModelSpec, settings_digest
from curation.leakage.features import is_code, values
from curation.leakage.ngrams import words
from curation.prompts import fill, prompt_digest
from curation.requests import Answer, Failure, Request
from curation.structured_output import fail, message_body, object_schema, read_json

STAGE = "leak"
Kind = Literal["instruction", "math", "code", "phrase"]
Same = Literal["yes", "no", "unsure"]

_PHRASE = 12
_ASKED = re.compile(r"\b(how (many|much|long|far|old)|what (is|was|are)|find|calculate|compute|solve|determine)\b", re.IGNORECASE)
_LONGEST = 12_000


@dataclass(frozen=True, slots=True)
class Doubt:
    """A row and the protected item it may give away."""

    row: str
    """Id of the record."""
    item: str
    """suite:place."""
    row_text: str
    item_text: str
    has_label: bool = False


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the leak judge said."""

    row: str
    item: str
    same: Same
    rationale: str


def leak_digest(judge: ModelSpec) -> str:
    """Digest of all that shapes a verdict: the prompt and the model."""
    return settings_digest(prompt_digest("leak_judge"), judge.provider, judge.model)


def kind_of(doubt: Doubt) -> Kind:
    """Which question is asked of the two texts."""
    if is_code(doubt.item_text):
        return "code"
    if sum(values(doubt.item_text).values()) >= 2 and _ASKED.search(doubt.item_text):
        return "math"
    return "phrase" if doubt.has_label or (len(words(doubt.item_text)) <= _PHRASE and "?" not in doubt.item_text) else "instruction"


def requests_for(doubts: Iterable[Doubt], *, judge: ModelSpec) -> Iterator[Request]:
    """One request per doubt; equal texts of two rows are asked once each, so that a verdict is never one of another row."""
    schema = object_schema({"rationale": {"type": "string"}, "same": {"type": "string", "enum": list(get_args(Same))}})
    digest = leak_digest(judge)
    for doubt in doubts:
        system, user = fill("leak_judge", kind=kind_of(doubt), row=doubt.row_text[:_LONGEST], item=doubt.item_text[:_LONGEST])
        yield Request(
            stage=STAGE, slot=f"{doubt.row}:{digest}:{doubt.item}", role="leak_judge", body=message_body(judge, system, user, schema)
        )


def verdict_from(answer: Answer) -> Verdict | Failure:
    """The verdict of an answer, or the reason it has none; never a "no" for want of one."""
    value = read_json(answer)
    if isinstance(value, Failure):
        return value
    rationale = value.get("rationale")
    same: Same | None = next((known for known in get_args(Same) if known == value.get("same")), None)
    if same is None:
        return fail(answer, "schema", f"`same` is {value.get('same')!r}; it must be yes, no or unsure")
    row, _, item = answer.request.slot.split(":", 2)
    return Verdict(row, item, same, rationale if isinstance(rationale, str) else "")
