"""Documents cut into passages: paragraphs are kept whole, headings stay with what follows them."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping

from curation.plan.cells import Row
from curation.plan.rows import holds_any, lengths_of, normalized

_SENTENCE = re.compile(r"(?<=[.!?。！？])\s+|\n")


def find_passages(documents: Mapping[str, str], *, chunk_chars: int, protected: Collection[str] = ()) -> list[Row]:
    """Passages of at most CHUNK_CHARS characters, in order: file, start, text. A passage that holds a protected text is left out.

    Args:
        documents: name to text.
        protected: normalized protected texts.
    """
    known, lengths = set(protected), lengths_of(protected)
    return [
        {"file": name, "start": start, "text": body}
        for name, text in documents.items()
        for start, body in _chunks(text, chunk_chars)
        if not holds_any(normalized(body), known, lengths)
    ]


def _chunks(text: str, most: int) -> Iterator[tuple[int, str]]:
    """(start, text) of passages: whole paragraphs as long as they fit."""
    begin = end = -1
    for start, stop in _pieces(text, most):
        if begin >= 0 and stop - begin > most and not _ends_in_heading(text[begin:end]):
            yield begin, text[begin:end].rstrip()
            begin = -1
        begin, end = (start if begin < 0 else begin), stop
    if begin >= 0:
        yield begin, text[begin:end].rstrip()


def _pieces(text: str, most: int) -> Iterator[tuple[int, int]]:
    """(start, end) of paragraphs; one that is too long is cut at ends of sentences, and where there are none at spaces."""
    for found in re.finditer(r"\S(?:.|\n(?!\s*\n))*", text):
        start, end = found.span()
        while end - start > most:
            window = text[start : start + most]
            cut = max((m.end() for m in _SENTENCE.finditer(window)), default=0) or window.rfind(" ") + 1 or most
            yield start, start + cut
            start += cut
        if text[start:end].strip():
            yield start, end


def _ends_in_heading(text: str) -> bool:
    last = text.rstrip().rsplit("\n", 1)[-1]
    return last.startswith("#")
