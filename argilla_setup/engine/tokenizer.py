"""The tokenizer: a reimplementation of Lucene's StandardAnalyzer, which Elasticsearch uses for text fields.

Words follow Unicode's word breaks (UAX #29): `E11.65`, `it's` and `a_b` are one term each, a Han or Hiragana character is a term, a run of
Thai is one term, an emoji is a term. Terms are lower case and keep their accents. The tests compare the tokenizer with Lucene itself.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

LONGEST_TERM = 255
"""UTF-16 units; longer words are cut into several terms."""

_WINDOW = 4 * LONGEST_TERM

# Characters whose properties differ between Unicode 12.1, which Lucene implements, and the regex package's version. Characters that were
# added later are left as they are, so that words in new scripts are found here.
ONCE_OTHER = "\u00b8\u02e5-\u02eb\u055a\u058a\ua708-\ua716"
ONCE_FORMAT = "\u0600-\u0605\u06dd\u070f\u08e2\U000110bd\U000110cd"
ONCE_PICTURE = (
    "\u2388\u2600-\u2605\u2607-\u2610\u2612\u2616-\u2685\u2690-\u26ff\u2700-\u2704\u2708-\u2712\u2763-\u2767"
    "\U0001f000-\U0001f0ff\U0001f10d-\U0001f10f\U0001f12f\U0001f16c-\U0001f171\U0001f17e-\U0001f17f\U0001f1ad"
    "\U0001f260-\U0001f265\U0001f300-\U0001f3fa\U0001f400-\U0001f53d\U0001f546-\U0001f64f\U0001f680-\U0001f6ff"
    "\U0001f7d5-\U0001f7d8\U0001f8b0-\U0001f8b1\U0001fa00-\U0001fbca"
)

# No word begins inside a run of underscores, which also avoids quadratic time on long runs.
_ASCII_PART = r"(?:[0-9]+(?:[.,;'][0-9]+)*|[A-Za-z]+(?:[.:'][A-Za-z]+)*)"
_ASCII = re.compile(rf"(?:(?<!_)_++)?{_ASCII_PART}(?:_*{_ASCII_PART})*_*")


def tokenize(text: str) -> list[str]:
    """Return the terms of a text in order."""
    if text.isascii():
        return _ascii_terms(text)
    # Words do not contain spaces, so only the parts with other characters take the slow path.
    return [term for part in text.split() for term in (_ascii_terms(part) if part.isascii() else map(lower, _find_words(part)))]


def lower(text: str) -> str:
    """Return the text in lower case, character by character as in Java: a final sigma becomes a sigma, a dotted I becomes an i."""
    return text.lower() if text.isascii() else text.replace("\u03a3", "\u03c3").replace("\u0130", "i").lower()


def _ascii_terms(text: str) -> list[str]:
    found = _ASCII.findall(text)
    if any(len(term) > LONGEST_TERM for term in found):
        found = list(_find_words(text))
    return [term.lower() for term in found]


def _find_words(text: str) -> Iterator[str]:
    # A window bounds the cost of each match: no word is longer than a quarter of it.
    anywhere, here = _word_pattern(start=r"(?<!\p{WB=ExtendNumLet})"), _word_pattern()
    at, cut = 0, False
    while at < len(text):
        window = min(at + _WINDOW, len(text))
        # Only the rest of a cut word may begin inside a run of underscores.
        found = (here.match(text, at, window) if cut else None) or anywhere.search(text, at, window)
        if found is None:
            at, cut = window if window == len(text) else window - LONGEST_TERM, False
            continue
        cut = False
        if found.end() - found.start() > LONGEST_TERM // 2 or found.end() > window - LONGEST_TERM:
            whole, end = found.end(), _end_of_units(text, found.start())
            found = here.match(text, found.start(), end)
            cut = whole >= end
        yield found[0]
        at = found.end()


def _end_of_units(text: str, start: int) -> int:
    """Return the index after LONGEST_TERM UTF-16 units; a character outside the basic plane has two."""
    if text[start : start + LONGEST_TERM].isascii():
        return start + LONGEST_TERM
    units, at = 0, start
    while at < len(text) and units + (width := 1 + (text[at] > "\uffff")) <= LONGEST_TERM:
        units, at = units + width, at + 1
    return at


@lru_cache(maxsize=2)
def _word_pattern(*, start: str = "") -> Any:
    """Return Lucene's grammar of words; in every alternative the greedy match is the longest one."""
    import regex

    ex = rf"[\p{{WB=Format}}\p{{WB=Extend}}\p{{WB=ZWJ}}{ONCE_FORMAT}]*+"
    hebrew, letter = rf"\p{{WB=Hebrew_Letter}}{ex}", rf"[[\p{{WB=ALetter}}\p{{WB=Hebrew_Letter}}]--[{ONCE_OTHER}{ONCE_FORMAT}]]{ex}"
    digit, kana = rf"[[\p{{WB=Numeric}}\uff10-\uff19]--[{ONCE_FORMAT}]]{ex}", rf"\p{{WB=Katakana}}{ex}"
    to_letter, to_digit = (rf"[\p{{WB={mid}}}\p{{WB=MidNumLet}}']{ex}{next}" for mid, next in (("MidLetter", letter), ("MidNum", digit)))
    part = rf"(?:{hebrew}\"{ex}{hebrew}|{hebrew}'{ex}|{letter}(?:{to_letter})*+|{digit}(?:{to_digit})*+)"
    group, joint = rf"(?:(?:{kana})+|{part}+)", rf"\p{{WB=ExtendNumLet}}{ex}"
    word = rf"(?:{start}(?:{joint})+)?{group}(?:(?:{joint})+{group})*(?:{joint})*"

    not_alone = r"\p{WB=Regional_Indicator}0-9#*\u00a9\u00ae\u2122\u3030\u303d\p{Emoji_Modifier}"
    picture = rf"[\p{{Extended_Pictographic}}{ONCE_PICTURE}[\p{{Emoji}}--[{not_alone}]]]"
    mark = rf"(?:[\p{{WB=Format}}\p{{WB=Extend}}--[\ufe0e\ufe0f]]|\u200d(?!\u200d*{picture}))*+"
    element = rf"(?:(?:\u200d*\p{{Emoji_Modifier_Base}}{mark})?\p{{Emoji_Modifier}}{mark}|\u200d*{picture}{mark}\ufe0f?)"
    tail = rf"(?:[\U000e0020-\U000e007e]+\U000e007f|(?:\u200d{element})*)"
    keycap = r"[0-9#*][\p{WB=Format}\p{WB=Extend}\p{WB=ZWJ}--[\ufe0e\ufe0f\u20e3]]*\ufe0f?\u20e3" + mark
    emoji = rf"(?:{element}{tail}|{keycap}|(?:\p{{WB=Regional_Indicator}}{ex}){{2}})"

    # A letter that is also an emoji (\u2139) begins a word unless a joiner makes it part of an emoji sequence.
    pictured = rf"(?=\p{{WB=ALetter}}){element}(?:\u200d{element})+(?<!{letter}(?={letter}|{digit}|{joint}))"
    single = rf"(?:\p{{LB=SA}}{ex})+|\p{{Script=Han}}{ex}|\p{{Script=Hiragana}}{ex}"
    return regex.compile(rf"{pictured}|{word}|{emoji}|{single}", regex.VERSION1)
