"""The stand-in as leak judge: whether a training row gives away a protected item. It has the two texts, a reader's sense of which words
decide, and the table; it knows nothing of what was planted, and it is sometimes wrong.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from curation.standin.flaws import chance
from curation.standin.reading import Asked
from curation.standin.tables import Codes, squeezed

SURE, DOUBTFUL = 0.6, 0.4
"""Share of the protected text's content words that the row must carry to be called the same, or to be called unclear."""
LONGEST = 14
"""Words of the longest name that is looked for in a row."""
MISTAKEN = 0.03
"""How often the judge says the opposite of what it sees."""
SMALL = frozenset(
    [
        "a",
        "an",
        "and",
        "are",
        "as",
        "at",
        "by",
        "due",
        "for",
        "from",
        "in",
        "into",
        "is",
        "it",
        "nos",
        "of",
        "on",
        "or",
        "other",
        "the",
        "to",
        "unspecified",
        "with",
        "his",
        "her",
        "their",
        "was",
    ]
)
RIVALS = (
    {"first", "second", "third", "fourth", "1", "2", "3", "4", "i", "ii", "iii", "iv"},
    {"left", "right", "bilateral", "unilateral"},
    {"acute", "chronic", "subacute"},
    {"upper", "lower"},
    {"initial", "subsequent", "sequela"},
    {"with", "without"},
)
"""Words of which one excludes the others: a single one of them may make it another thing."""


@dataclass(frozen=True)
class LeakJudge:
    """Compares a row with a protected item by seed and request alone."""

    codes: Codes
    seed: int

    def answer(self, asked: Asked) -> dict[str, str]:
        """Whether the two say the same: yes, no or unsure, with the words it rests on."""
        row, item = texts_of(asked)
        same, why = self._compare(row, item)
        if same != "unsure" and chance(MISTAKEN, self.seed, asked.sha, "leak"):
            same = "no" if same == "yes" else "yes"
        return {"rationale": why, "same": same}

    def _compare(self, row: str, item: str) -> tuple[str, str]:
        ours, theirs = squeezed(row), squeezed(item)
        if not theirs:
            return "unsure", "There is nothing to compare."
        if f" {theirs} " in f" {ours} ":
            return "yes", "The text stands in the row as it is."
        if other := self._other_name(ours, theirs):
            return "no", f"The row says “{other}”, which is a name of its own."
        if rival := _rivals(ours, theirs):
            return "no", f"One says {rival[0]}, the other {rival[1]}."
        wanted = _stems(theirs)
        shared = wanted & _stems(ours)
        share = len(shared) / len(wanted) if wanted else 0.0
        said = ", ".join(sorted(shared)) or "nothing"
        verdict = "yes" if share >= SURE else "unsure" if share >= DOUBTFUL else "no"
        return verdict, f"They share {said}: {share:.0%} of the words that matter."

    def _other_name(self, ours: str, theirs: str) -> str | None:
        """The longest official name in the row, word for word, of about the protected text's length or more and not that text."""
        words, least = ours.split(), max(2, round(0.8 * len(theirs.split())))
        spans = (" ".join(words[i : i + n]) for n in range(min(LONGEST, len(words)), least - 1, -1) for i in range(len(words) - n + 1))
        return next((span for span in spans if span != theirs and self.codes.called(span)), None)


def texts_of(asked: Asked) -> tuple[str, str]:
    """The row and the protected item of a request: the tagged part whose name speaks of what is protected, and the other one."""
    parts = {name: _text(value) for name, value in asked.parts.items() if name not in ("rubric", "brief", "output_format")}
    item = next((name for name in parts if re.search(r"protect|item|eval|held", name)), None)
    rows = [name for name in parts if name != item]
    row = next((name for name in rows if re.search(r"row|train|example|text|candidate", name)), rows[0] if rows else None)
    return parts.get(row or "", ""), parts.get(item or "", "")


def _text(value: Any) -> str:
    """All texts of a part, whatever its shape."""
    if isinstance(value, str):
        return value
    if isinstance(value, dict):
        return "\n".join(map(_text, value.values()))
    return "\n".join(map(_text, value)) if isinstance(value, list) else ""


def _stems(text: str) -> set[str]:
    return {word[:5] for word in text.split() if word not in SMALL}


def _rivals(ours: str, theirs: str) -> tuple[str, str] | None:
    """A pair of words that exclude each other, one in each text and neither in both."""
    here, there = set(ours.split()), set(theirs.split())
    for group in RIVALS:
        a, b = here & group, there & group
        if a and b and not a & b:
            return min(a), min(b)
    return None
