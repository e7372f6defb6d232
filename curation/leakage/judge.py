"""Ask a model about the rows just below the paraphrase threshold ("leak judge").

The question depends on the kind of task, because equality does: equal solutions for math, equal behaviour for code, the same concept
for a phrase.
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
from curation.requests import Answer, Failure, Request, fail, message_body, object_schema, read_json

STAGE = "leak"
Kind = Literal["instruction", "math", "code", "phrase"]
Same = Literal["yes", "no", "unsure"]

# Words up to which a text without a question mark is a phrase.
_PHRASE = 12
# Wording of a question with a computed answer.
_MATH = re.compile(r"\b(how (many|much|long|far|old)|what (is|was|are)|find|calculate|compute|solve|determine)\b", re.IGNORECASE)
# Characters of each text that are sent.
_LONGEST = 12_000


@dataclass(frozen=True, slots=True)
class Doubt:
    """A row and the protected item it may leak."""

    row: str
    """Id of the record."""
    item: str
    """suite:index."""
    row_text: str
    item_text: str
    has_label: bool = False


@dataclass(frozen=True, slots=True)
class Verdict:
    """The answer of the leak judge."""

    row: str
    item: str
    same: Same
    rationale: str


def leak_digest(judge: ModelSpec) -> str:
    """Return the digest of everything that determines a verdict: the prompt and the model."""
    return settings_digest(prompt_digest("leak_judge"), judge.provider, judge.model)


def kind_of(doubt: Doubt) -> Kind:
    """Return the kind of question for the two texts."""
    if is_code(doubt.item_text):
        return "code"
    if sum(values(doubt.item_text).values()) >= 2 and _MATH.search(doubt.item_text):
        return "math"
    return "phrase" if doubt.has_label or (len(words(doubt.item_text)) <= _PHRASE and "?" not in doubt.item_text) else "instruction"


def requests_for(doubts: Iterable[Doubt], *, judge: ModelSpec) -> Iterator[Request]:
    """Yield one request per doubt; equal texts of two rows are asked separately, so that a verdict always belongs to its row."""
    schema = object_schema({"rationale": {"type": "string"}, "same": {"type": "string", "enum": list(get_args(Same))}})
    digest = leak_digest(judge)
    for doubt in doubts:
        system, user = fill("leak_judge", kind=kind_of(doubt), row=doubt.row_text[:_LONGEST], item=doubt.item_text[:_LONGEST])
        yield Request(
            stage=STAGE, slot=f"{doubt.row}:{digest}:{doubt.item}", role="leak_judge", body=message_body(judge, system, user, schema)
        )


def verdict_from(answer: Answer) -> Verdict | Failure:
    """Return the verdict of an answer, or a failure; an unreadable answer is never read as "no"."""
    value = read_json(answer)
    if isinstance(value, Failure):
        return value
    rationale = value.get("rationale")
    same: Same | None = next((known for known in get_args(Same) if known == value.get("same")), None)
    if same is None:
        return fail(answer, "schema", f"`same` is {value.get('same')!r}; it must be yes, no or unsure")
    row, _, item = answer.request.slot.split(":", 2)
    return Verdict(row, item, same, rationale if isinstance(rationale, str) else "")
