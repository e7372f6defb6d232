"""What counts as the same text. Comparison only: the text of a record is never changed."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sized
from functools import cache
from typing import Any

# NFKC would make 5² equal 52. So: canonical composition, and only the foldings below, which never join two meanings.
INVISIBLE = re.compile("[\u00ad\u200b\u200e\u200f\u202a-\u202e\u2060\u2066-\u2069\ufeff]")
CONTROL = re.compile("[\x00-\x1f\x7f-\x9f]")


def normalize(text: str) -> str:
    """Fold case, width, quotes, dashes, spacing and invisible marks; keep every letter, digit and sign.

    Joiners inside emoji and Indic or Persian words stay: they change what is read.
    """
    if not text.isascii():
        text = unicodedata.normalize("NFC", INVISIBLE.sub("", text).translate(foldings()))
    return " ".join(CONTROL.sub(" ", text).casefold().split())


def strings(texts: Iterable[Any]) -> list[str]:
    """A list of str from a sequence of str or an Arrow string array; null reads as the empty text."""
    values = texts.to_pylist() if hasattr(texts, "to_pylist") else list(texts)
    return ["" if value is None else value for value in values]


def checked_length(values: Sized | None, n: int, name: str) -> None:
    """Refuse a column that does not stand beside the texts row by row."""
    if values is not None and len(values) != n:
        raise ValueError(f"{name} has {len(values)} values for {n} texts")


@cache
def foldings() -> dict[int, str]:
    """Code point to what is read in its place: width, quotes, dashes, the ellipsis."""
    wide = {code: unicodedata.normalize("NFKC", chr(code)) for code in (*range(0xFF01, 0xFFEF), 0x3000)}
    quotes = dict.fromkeys(map(ord, "‘’‚‛′"), "'") | dict.fromkeys(map(ord, "“”„‟″"), '"')
    dashes = dict.fromkeys(map(ord, "‐‑‒–—―−"), "-")
    return wide | quotes | dashes | {ord("…"): "...", 0xA0: " "}
