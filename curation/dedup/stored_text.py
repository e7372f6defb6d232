"""Read prompts where they are stored: most need no copy, and no JSON is parsed."""

from __future__ import annotations

from typing import Any

import numpy as np

from curation.dedup.arrow_text import Array, Rows, spread

_BEFORE, _BEHIND = '{{"kind":"{}","prompt":[{{"role":"user","content":"', b'"}],"complet'
"""What is around the prompt of one turn in the body of a record. In JSON a quote inside of the text is escaped."""


def find_prompts(memory: Any, starts: Array, sizes: Array, *, kind: str) -> tuple[Rows, Array]:
    """Return the prompt of each body that has one turn, and a mask of the bodies that have another form, whose texts are left empty.

    Args:
        memory: bytes that hold all bodies; they must not be empty.
        starts: of each body in the memory.
        sizes: bytes of each body.
        kind: of the records.
    """
    from curation.dedup.kernels.stored import find_texts, undo_escapes

    held = np.frombuffer(memory, np.uint8)
    held.flags.writeable = False
    n, around = len(starts), tuple(np.frombuffer(words, np.uint8) for words in (_BEFORE.format(kind).encode(), _BEHIND))
    begins, raw, plain = (np.zeros(n, np.int64) for _ in range(3))
    spread(find_texts, n, held, (starts, sizes), around, (begins, raw, plain))
    is_other, addresses = plain < 0, held.ctypes.data + begins
    plain[is_other] = 0
    escaped = np.flatnonzero(~is_other & (raw != plain))
    ends = np.cumsum(plain[escaped])
    out, places = np.empty(int(ends[-1]) if len(ends) else 0, np.uint8), ends - plain[escaped]
    spread(undo_escapes, len(escaped), escaped, held, (begins, raw), out, places)
    addresses[escaped] = out.ctypes.data + places
    return Rows(addresses, plain, np.zeros(n, np.bool_), (held, out)), is_other
