"""Word differences of two texts, as `git diff --word-diff` writes them. The page of a row shows the same words in colour."""

from __future__ import annotations

import difflib
import re

_WORDS = re.compile(r"[^\W_]+|\s+|.", re.DOTALL)
LONGEST = 4_000_000
"""Product of the numbers of words up to which texts are compared: about 2,000 words with 2,000."""
LEAST_COMMON = 0.3
"""Share of the original's words that must remain; below it the marks would be harder to read than both texts."""


def mark_changes(before: str, after: str) -> str:
    """Return one text with removed words in [-...-] and added ones in {+...+}.

    Texts that are too long to compare, or have little in common, are marked as a whole.

    Args:
        before: the original.
        after: its edited version.
    """
    old, new = _WORDS.findall(before), _WORDS.findall(after)
    if len(old) * len(new) > LONGEST:
        return f"[-{before}-]{{+{after}+}}"
    matcher = difflib.SequenceMatcher(None, old, new, autojunk=False)
    common = sum(not word.isspace() for match in matcher.get_matching_blocks() for word in old[match.a : match.a + match.size])
    if common < LEAST_COMMON * sum(not word.isspace() for word in old):
        return f"[-{before}-]{{+{after}+}}"
    parts = []
    for tag, i, j, k, end in matcher.get_opcodes():
        if tag == "equal":
            parts.append("".join(old[i:j]))
            continue
        removed, added = "".join(old[i:j]), "".join(new[k:end])
        parts.append((f"[-{removed}-]" if removed else "") + (f"{{+{added}+}}" if added else ""))
    return "".join(parts)
