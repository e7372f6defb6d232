"""Which code points make up words, as a table for the compiled loops; the same words as `spans.words` finds."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any

import numpy as np

BREAK, PART, SIGN = 0, 1, 2
"""Between words; part of a word; a word by itself (Chinese and Japanese signs)."""


@lru_cache(maxsize=1)
def word_table() -> np.ndarray[Any, np.dtype[np.uint8]]:
    """BREAK, PART or SIGN for every code point."""
    every = "".join(map(chr, range(0xD800))) + "\0" * 0x800 + "".join(map(chr, range(0xE000, 0x110000)))
    table = np.zeros(0x110000, np.uint8)
    for found in re.finditer(r"[^\W_]+", every):
        table[found.start() : found.end()] = PART
    for first, last in ((0x3040, 0x30FF), (0x3400, 0x9FFF), (0xF900, 0xFAFF)):
        table[first : last + 1] = SIGN
    return table
