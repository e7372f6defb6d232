"""Find the text of a prompt in the JSON of a stored record, and undo the escapes of those that have some."""

from __future__ import annotations

import numpy as np
from numba import njit

_QUOTE, _BACKSLASH, _U, _ZERO = ord('"'), ord("\\"), ord("u"), ord("0")


@njit(nogil=True, cache=True)
def _is_at(memory, at, end, words):
    """Return whether these bytes begin at a place, before `end`."""
    same, i = at + len(words) <= end, 0
    while same and i < len(words):
        same = memory[at + i] == words[i]
        i += 1
    return same


@njit(nogil=True, cache=True)
def _control(memory, at, end):
    r"""Return the character of \u00XX, whose backslash is at `at`, if it is ASCII; else -1."""
    if at + 6 > end or memory[at + 2] != _ZERO or memory[at + 3] != _ZERO:
        return -1
    value = 0
    for i in range(at + 4, at + 6):
        digit = int(memory[i])
        if _ZERO <= digit <= 57:
            value = 16 * value + digit - _ZERO
        elif 65 <= digit & 95 <= 70:
            value = 16 * value + (digit & 95) - 55
        else:
            return -1
    return value if value < 128 else -1


@njit(nogil=True, cache=True)
def find_texts(start, stop, memory, places, around, found):
    """Find the text between two words of each body: where it begins, its bytes in the JSON, and those without escapes.

    Args:
        start: first row.
        stop: end of the range.
        memory: bytes that hold all bodies.
        places: (start, size) of each body.
        around: what a body begins with, up to the text, and what must follow it; both as bytes.
        found: (begin, size, size without escapes) of each row; written. The last is -1 for a body of another form.
    """
    (starts, sizes), (before, behind), (begins, raw, plain) = places, around, found
    for row in range(start, stop):
        at, end = starts[row], starts[row] + sizes[row]
        plain[row] = -1
        if not _is_at(memory, at, end, before):
            continue
        at += len(before)
        begin, less = at, 0
        while at < end and memory[at] != _QUOTE:
            if memory[at] != _BACKSLASH:
                at += 1
            elif at + 1 < end and memory[at + 1] != _U:
                at += 2
                less += 1
            elif _control(memory, at, end) >= 0:
                at += 6
                less += 5
            else:
                at = end
        if _is_at(memory, at, end, behind):
            begins[row], raw[row], plain[row] = begin, at - begin, at - begin - less


@njit(nogil=True, cache=True)
def undo_escapes(start, stop, which, memory, found, out, places):
    """Write texts of `find_texts` without escapes.

    Args:
        start: first index into `which`.
        stop: end of the range.
        which: rows.
        memory: bytes that hold all bodies.
        found: (begin, size) of each row's text.
        out: bytes; written.
        places: where each of these rows begins in `out`.
    """
    begins, raw = found
    meant = np.arange(256).astype(np.uint8)  # of \", \\ and \/ the character itself
    for letter, code in zip((98, 102, 110, 114, 116), (8, 12, 10, 13, 9)):  # noqa: B905  (numba has no strict)
        meant[letter] = code
    for i in range(start, stop):
        at, to = begins[which[i]], places[i]
        end = at + raw[which[i]]
        while at < end:
            if memory[at] != _BACKSLASH:
                out[to] = memory[at]
                at += 1
            elif memory[at + 1] != _U:
                out[to] = meant[memory[at + 1]]
                at += 2
            else:
                out[to] = _control(memory, at, end)
                at += 6
            to += 1
