"""Where a text stands among the calls. What was asked and answered is the proof of what was paid, so an erased row's text stays there
and is told of; but no request that quotes it is sent again.
"""

from __future__ import annotations

import re
import sqlite3
import zlib
from collections import Counter
from collections.abc import Collection

_ESCAPED = re.compile(r"\\+u([0-9a-fA-F]{4})")
_NO_WORD = re.compile(r"\\+.|\W+", re.DOTALL)
_OPEN = "('reserved', 'uncertain', 'failed')"


def count_holding(db: sqlite3.Connection, texts: Collection[str]) -> Counter[str]:
    """How many calls of each stage hold any of the texts, in what was asked or in what was answered."""
    found, wanted = Counter[str](), _skeletons(texts)
    for row in db.execute("SELECT stage, body, response FROM calls"):
        both = [zlib.decompress(part).decode(errors="replace") for part in (row["body"], row["response"]) if part is not None]
        found[row["stage"]] += any(_holds(text, wanted) for text in both)
    return +found


def forget_asks(db: sqlite3.Connection, texts: Collection[str]) -> int:
    """Drop what unanswered requests were made from where it holds any of the texts: they are then made anew. Returns how many."""
    wanted = _skeletons(texts)
    rows = db.execute(
        "SELECT DISTINCT a.* FROM asks a JOIN calls c ON (c.stage, c.slot, c.attempt) = (a.stage, a.slot, a.attempt) "
        f"WHERE c.state IN {_OPEN} AND c.settled = 0"
    ).fetchall()
    gone = [(row["stage"], row["slot"], row["attempt"]) for row in rows if _holds(bytes(row["body"]).decode(), wanted)]
    with db:
        db.executemany("DELETE FROM asks WHERE (stage, slot, attempt) = (?, ?, ?)", gone)
    return len(gone)


def _holds(text: str, wanted: Collection[str]) -> bool:
    found = _skeleton(text)
    return any(one in found for one in wanted)


def _skeletons(texts: Collection[str]) -> list[str]:
    return [found for text in texts if (found := _skeleton(text))]


def _skeleton(text: str) -> str:
    """Letters and digits alone: the same text may stand inside JSON inside JSON, cut, and on lines of another width."""
    return _NO_WORD.sub("", _ESCAPED.sub(lambda found: chr(int(found[1], 16)), text))
