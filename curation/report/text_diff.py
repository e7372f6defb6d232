"""Two texts with their different words marked. Everything is escaped here: row texts are never trusted."""

from __future__ import annotations

import difflib
import re
from html import escape

UNSPACED = r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]"
TOKENS = re.compile(rf"{UNSPACED}|(?:(?!{UNSPACED})\w)+|\s+|[^\w\s]")
"""Words, spaces and signs; scripts written without spaces are split by character."""
LONGEST = 1_200
"""Tokens above which a comparison would delay the page; longer texts are shown unmarked."""


def mark_differences(left: str, right: str) -> tuple[str, str]:
    """Return both texts as HTML: words only on the left in <del>, words only on the right in <ins>."""
    a, b = TOKENS.findall(left), TOKENS.findall(right)
    if len(a) > LONGEST or len(b) > LONGEST:
        return escape(left), escape(right)
    first: list[str] = []
    second: list[str] = []
    # autojunk would ignore words that are frequent in long texts.
    for tag, i1, i2, j1, j2 in difflib.SequenceMatcher(None, a, b, autojunk=False).get_opcodes():
        first.append(_wrap("".join(a[i1:i2]), "" if tag == "equal" else "del"))
        second.append(_wrap("".join(b[j1:j2]), "" if tag == "equal" else "ins"))
    return "".join(first), "".join(second)


def _wrap(text: str, tag: str) -> str:
    if not text.strip() or not tag:
        return escape(text)
    return f"<{tag}>{escape(text)}</{tag}>"
