"""Refusals, disclaimers and stock phrases in answers, from a list that names who found each (phrases.yaml); and how answers open."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import yaml

_OPENING_WORDS = 3
_END = 300
"""Characters at the end of an answer that a closer may stand in."""


class Phrase(NamedTuple):
    """One entry of the list."""

    phrase: str
    kind: str
    where: str
    source: str
    pattern: re.Pattern[str]


def find_phrases(texts: Sequence[str] | pa.Array) -> pa.Table:
    """Where each answer refuses or uses a stock phrase: row, phrase, kind, source, start, end (in characters).

    Each phrase is reported once a row, where it first stands. Time grows with the characters.
    """
    plain: list[str] = texts.to_pylist() if isinstance(texts, pa.Array | pa.ChunkedArray) else list(texts)
    found = []
    for row, text in enumerate(plain):
        straight = text.replace("\u2019", "'")
        for phrase in load_phrases():
            if span := _place(phrase, straight):
                found.append((row, phrase.phrase, phrase.kind, phrase.source, *span))
    columns = list(zip(*found, strict=True)) or [()] * 6
    names = {"row": pa.int64(), "phrase": pa.string(), "kind": pa.string(), "source": pa.string(), "start": pa.int64(), "end": pa.int64()}
    return pa.table({name: pa.array(column, kind) for (name, kind), column in zip(names.items(), columns, strict=True)})


def find_openings(texts: Sequence[str] | pa.Array, *, least: float = 0.02, most: int = 10) -> pa.Table:
    """The first three words that open at least `least` of the texts, the most frequent first: opening, rows.

    One opening on a large share of the answers is a template that the model will learn.
    """
    plain: list[str] = texts.to_pylist() if isinstance(texts, pa.Array | pa.ChunkedArray) else list(texts)
    counts = Counter(" ".join(text[:200].split()[:_OPENING_WORDS]).casefold() for text in plain)
    counts.pop("", None)
    often = [(words, n) for words, n in counts.most_common(most) if n > 1 and n >= least * len(plain)]
    return pa.table({"opening": pa.array([o for o, _ in often], pa.string()), "rows": pa.array([n for _, n in often], pa.int64())})


@cache
def load_phrases() -> tuple[Phrase, ...]:
    """The list, compiled."""
    listed = yaml.safe_load(Path(__file__).with_name("phrases.yaml").read_text(encoding="utf-8"))
    anchors = {"start": (r"\A[\s\"'*#]*", r"(?!\w)"), "end": (r"(?<!\w)", r"(?!\w)"), "anywhere": (r"(?<!\w)", r"(?!\w)")}
    phrases = []
    for entry in listed["phrases"]:
        before, after = anchors[entry["where"]]
        pattern = re.compile(f"{before}(?P<it>{entry['pattern']}){after}", re.IGNORECASE)
        phrases.append(Phrase(entry["phrase"], entry["kind"], entry["where"], listed["sources"][entry["source"]], pattern))
    return tuple(phrases)


def _place(phrase: Phrase, text: str) -> tuple[int, int] | None:
    match = phrase.pattern.search(text, max(0, len(text) - _END)) if phrase.where == "end" else phrase.pattern.search(text)
    return match.span("it") if match else None
