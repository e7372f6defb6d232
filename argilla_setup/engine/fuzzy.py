"""Near spellings and near words, as Lucene counts them.

Near words are looked for in thousands of texts at once: all places go on one axis, each text far from the others.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

import numpy as np
from numpy.typing import NDArray

MOST_SPELLINGS = 10
"""Argilla asks Elasticsearch for this many (`fuzzy_max_expansions`)."""

GAP = "\x1d"
"""Stands between the texts of a conversation."""

GAP_PLACES = 100
"""How far apart Elasticsearch puts them: no phrase reaches over, and few near words do."""

FAR = 2**34
"""How far apart texts are put: beyond any slop."""


def nearest_spellings(word: str, terms: Sequence[str], *, edits: int) -> list[str]:
    """Of these terms, those within so many single-character edits of the word; the ten best when there are more.

    Better is fewer edits for the length of the shorter one, then the earlier in the order of their bytes.
    """
    near: list[tuple[float, bytes, str]] = []
    for length, terms_of_length in groupby(sorted(terms, key=len), key=len):
        if abs(length - len(word)) > edits:
            continue
        group = list(terms_of_length)
        distances = edit_distances(word, group)
        for at in np.flatnonzero(distances <= edits):
            distance, term = int(distances[at]), group[at]
            similarity = 1.0 if distance == 0 else float(np.float32(1) - np.float32(distance) / np.float32(min(length, len(word))))
            near.append((-similarity, term.encode(), term))
    return [term for _, _, term in sorted(near)[:MOST_SPELLINGS]]


def edit_distances(word: str, terms: Sequence[str]) -> NDArray[np.int16]:
    """Levenshtein distances from the word to terms of one length, all at once."""
    length = len(terms[0])
    letters = np.frombuffer("".join(terms).encode("utf-32-le"), dtype=np.uint32).reshape(len(terms), length)
    row = np.repeat(np.arange(length + 1, dtype=np.int16)[:, None], len(terms), axis=1)
    for n, letter in enumerate(word, 1):
        above, row = row, np.empty_like(row)
        row[0] = n
        same = (letters == ord(letter)).T
        for m in range(1, length + 1):
            row[m] = np.minimum(np.minimum(above[m], row[m - 1]) + 1, above[m - 1] + ~same[m - 1])
    distances: NDArray[np.int16] = row[length]
    return distances


def are_near(texts: str, terms: Sequence[str], *, slop: int) -> NDArray[np.bool_]:
    """Of each of these stored texts: do the terms of a phrase stand so that moving them by `slop` in all would make the phrase?

    Each needs a place of its own, and the places, each less its term's number in the phrase, lie within `slop` of one another. So two
    words the other way round are two moves away.

    Args:
        texts: a line for each, its terms between single spaces.
    """
    data = np.frombuffer(texts.encode(), dtype=np.uint8)
    ends = np.append(np.flatnonzero((data == ord(" ")) | (data == ord("\n"))), len(data))
    starts = np.append(0, ends[:-1] + 1)
    lines = np.cumsum(np.append(0, data[ends[:-1]] == ord("\n")))
    axis = np.arange(len(starts)) + (GAP_PLACES - 1) * np.cumsum(_is_word(data, starts, ends, GAP)) + lines * FAR
    places = {term: axis[_is_word(data, starts, ends, term)] for term in set(terms)}
    # Every window begins at some term's place.
    lows = np.concatenate([places[term] - n for n, term in enumerate(terms)])
    fits = np.ones(len(lows), dtype=bool)
    for term, own in places.items():
        last, taken = np.append(own, np.iinfo(np.int64).max), np.full(len(lows), -1)
        # Each takes the first place that its window has and that none before it took: windows of one length are best served in order.
        for n in (n for n, other in enumerate(terms) if other == term):
            taken = np.maximum(np.searchsorted(own, lows + n), np.minimum(taken + 1, len(own)))
            fits &= last[taken] <= lows + n + slop
    near = np.zeros(int(lines[-1]) + 1, dtype=bool)
    # A window may begin before the text does.
    near[(lows[fits] + len(terms)) // FAR] = True
    return near


def _is_word(data: NDArray[np.uint8], starts: NDArray[np.intp], ends: NDArray[np.intp], word: str) -> NDArray[np.bool_]:
    letters = np.frombuffer(word.encode(), dtype=np.uint8)
    found: NDArray[np.bool_] = ends - starts == len(letters)
    for n, letter in enumerate(letters):
        at = np.flatnonzero(found)
        found[at] = data[starts[at] + n] == letter
    return found
