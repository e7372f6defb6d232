"""How text becomes search terms, the same for what is indexed and for what is asked.

Words are runs of letters, digits, marks and underscores, folded to one case. Scripts written without spaces (Han, kana, Thai, Lao,
Khmer, Myanmar) and emoji give one term per character, so that a word inside a sentence is found as a phrase of its characters.
"""

from __future__ import annotations

import re
import sys
import unicodedata
from functools import lru_cache

UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
EMOJI = "\u2600-\u27bf\U0001f300-\U0001faff"
_ASCII = re.compile(r"[a-z0-9_]+")


def tokenize(text: str) -> list[str]:
    """The terms of a text in order."""
    if text.isascii():
        return _ASCII.findall(text.lower())
    return _unicode_pattern().findall(unicodedata.normalize("NFKC", text).casefold())


def indexable(text: str) -> str:
    """The text as the full-text table stores it: terms with spaces between, which its `ascii` tokenizer splits again."""
    return " ".join(tokenize(text))


@lru_cache(maxsize=1)
def _unicode_pattern() -> re.Pattern[str]:
    # `\w` lacks combining marks, without which Hindi or Arabic words fall apart.
    marks = "".join(re.escape(c) for c in map(chr, range(0x300, min(sys.maxunicode, 0x1F000))) if unicodedata.category(c) in ("Mn", "Mc"))
    return re.compile(f"[{UNSPACED}{EMOJI}]|(?:(?![{UNSPACED}{EMOJI}])[\\w{marks}])+")
