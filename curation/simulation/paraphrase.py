"""Saying the same in other words, three ways: swaps of expressions that the official table itself treats as the same, changes of word
order and frame, and small slips of the hand. None of it is known to the gates.
"""

from __future__ import annotations

import random
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from difflib import SequenceMatcher

from curation.simulation.code_table import Codes, squeezed
from curation.simulation.vocabulary import EVERYDAY, REVIEWED


@dataclass(frozen=True)
class Reworder:
    """The three generators over one table."""

    swaps: tuple[tuple[str, str], ...]
    codes: Codes
    heads: frozenset[str] = frozenset()
    """Nouns that names end in: what a name is about, as far as its last word tells."""

    @classmethod
    def over(cls, codes: Codes) -> Reworder:
        """Swaps that the table bears out, then everyday ones."""
        mined = mine_swaps(codes)
        known = {frozenset(map(str.lower, pair)) for pair in mined}
        return cls(
            tuple(pair for pair in REVIEWED if not mined or frozenset(map(str.lower, pair)) in known) + EVERYDAY, codes, _heads(codes)
        )

    def reword(self, text: str, *, random_: random.Random, avoid: Iterable[str] = ()) -> str | None:
        """The phrase in other words with the same meaning, or None when it has no other (a lone eponym)."""
        taken = {squeezed(text), *map(squeezed, avoid)}
        ways: list[tuple[Callable[[str, random.Random], str], ...]] = [(self.reorder, self._swap), (self._swap,), (self.reorder,)]
        for chosen in random_.sample(ways, len(ways)):
            for _ in range(4):
                changed = text
                for way in chosen:
                    changed = way(changed, random_)
                if squeezed(changed) not in taken and not self.codes.is_name(changed) and _apart(text, changed):
                    return changed
        return None

    def soften(self, text: str, random_: random.Random) -> str:
        """One swap at most, for everyday variety; the text itself when nothing fits or the result is another official name."""
        changed = self._swap(text, random_, most=1)
        return text if self.codes.is_name(changed) else changed

    def reorder(self, text: str, random_: random.Random) -> str:
        """The same words in another order, as an index, a ward round or a letter would have them; the text where none fits."""
        core, tail = _split_tail(text)
        options = [put(found) for pattern, put in _ORDERS if (found := pattern.fullmatch(core))]
        if (found := re.fullmatch(r"((?:[\w'-]+ ){1,4})([a-z]+)", core)) and found[2] in self.heads and not _JOINT.search(core):
            options.append(_head_first(found[1].strip(), found[2]))
        return f"{random_.choice(options)}{tail}" if options else text

    def _swap(self, text: str, random_: random.Random, *, most: int = 2) -> str:
        found = [pair for pair in self.swaps if _word(pair[0]).search(text)]
        # Of a short phrase one word must stay, or nobody could tell that it is the same.
        for a, b in random_.sample(found, min(most if len(text.split()) > 3 else 1, len(found))):
            text = _word(a).sub(lambda m, b=b: _like(m.group(0), b), text, count=1)  # type: ignore[misc]
        return text


def mine_swaps(codes: Codes, *, least: int = 2) -> dict[tuple[str, str], int]:
    """Expressions that stand for each other in the description and a term of one code, with the number of categories that do so."""
    found: dict[tuple[str, str], set[str]] = defaultdict(set)
    for row in codes.rows.values():
        one = _tokens(row["description"])
        for term in row["terms"]:
            if pair := _only_difference(one, _tokens(term)):
                found[pair].add(row["code"][:3])
    return {pair: len(where) for pair, where in found.items() if len(where) >= least}


_JOINT = re.compile(r"\b(of|with|without|due|to|in|and|or|for|by|from|following|on|after)\b", re.IGNORECASE)
_PLAIN = r"(?:(?!(?:of|with|without|due|in|and|or|for|by|from|following|on|after)\b)[\w'-]+)"

_ORDERS: tuple[tuple[re.Pattern[str], Callable[[re.Match[str]], str]], ...] = tuple(
    (re.compile(pattern, re.IGNORECASE), put)
    for pattern, put in (
        (rf"({_PLAIN}) of (?:the )?({_PLAIN}(?: {_PLAIN}){{0,2}})", lambda m: f"{_upper(m[2])} {_lower(m[1])}"),
        (rf"({_PLAIN}) ({_PLAIN}) of (?:the )?({_PLAIN}(?: {_PLAIN})?)", lambda m: f"{m[1]} {m[3]} {_lower(m[2])}"),
        (r"([\w' -]+?) due to ([\w' -]+)", lambda m: f"{_upper(m[2])} that led to {_lower(m[1])}"),
        (r"((?:(?!associated|affected|linked)[\w' -])+?) with ([\w' -]+)", lambda m: f"{m[1]} accompanied by {m[2]}"),
        (r"([\w' -]+?) (?:following|after) ([\w' -]+)", lambda m: f"{m[1]} in the wake of {m[2]}"),
        (r"([\w' -]+?), ((?!grade|stage)[\w-]+(?: [\w-]+){0,2})", lambda m: f"{_upper(m[2])} {_lower(m[1])}"),
        (r"([\w' -]+?), (grade|stage) (\d)", lambda m: f"{m[2].capitalize()} {m[3]} {m[1]}"),
    )
)


def _head_first(modifiers: str, head: str) -> str:
    """The name as an index has it ("Palsy, facial"), or the name of a person put after its noun."""
    person = re.fullmatch(r"((?:[A-Z][\w]+[ -])*[A-Z]\w+)'s", modifiers)
    if person and not person[1].endswith("er"):
        return f"{head.capitalize()} of {person[1]}"
    if re.fullmatch(r"[A-Z]\w+(?:-[A-Z]\w+)+", modifiers):
        return f"{head.capitalize()} of {modifiers}"
    if head == "deficiency":
        return f"Deficiency of {_lower(modifiers)}"
    return f"{head.capitalize()}, {_lower(modifiers)}"


def _split_tail(text: str) -> tuple[str, str]:
    """A name and what trails it: brackets, NOS, unspecified."""
    found = re.fullmatch(r"(.+?)((?: NOS|, unspecified| \[[^\]]*\]| \([^)]*\))*)", text)
    return (found[1], found[2]) if found else (text, "")


def _heads(codes: Codes) -> frozenset[str]:
    counts = Counter(name.split()[-1] for row in codes.rows.values() for name in (row["description"], *row["terms"]) if name)
    return frozenset(word for word, n in counts.items() if n >= 4 and word.isalpha() and word.islower())


def slip(text: str, random_: random.Random) -> str:
    """One to three small edits, one for about fifty characters: a typing slip, a doubled or lost letter, a changed joint or ending."""
    changed = text
    while squeezed(changed) == squeezed(text):
        changed = text
        for _ in range(min(3, 1 + len(text) // 50)):
            changed = random_.choice(_SLIPS)(changed, random_)
    return changed


def _swap_letters(text: str, random_: random.Random) -> str:
    return _in_word(text, random_, lambda w, i: w[:i] + w[i + 1] + w[i] + w[i + 2 :])


def _lose_letter(text: str, random_: random.Random) -> str:
    return _in_word(text, random_, lambda w, i: w[:i] + w[i + 1 :])


def _double_letter(text: str, random_: random.Random) -> str:
    return _in_word(text, random_, lambda w, i: w[:i] + w[i] + w[i:])


def _small_word(text: str, random_: random.Random) -> str:
    return random_.choice(
        (
            re.sub(r"\band\b", "&", text, count=1),
            re.sub(r"\bof\b", "of the", text, count=1),
            text.replace("-", " ", 1),
            text.rstrip(".") + " noted",
            re.sub(r"\bNOS\b", "(NOS)", text),
        )
    )


_SLIPS = (_swap_letters, _lose_letter, _double_letter, _small_word)


def _in_word(text: str, random_: random.Random, change: Callable[[str, int], str]) -> str:
    places = [m.span() for m in re.finditer(r"[A-Za-z]{5,}", text)]
    if not places:
        return text + " "
    start, end = random_.choice(places)
    word = text[start:end]
    return text[:start] + change(word, random_.randrange(1, len(word) - 2)) + text[end:]


def sentence_case(name: str, codes: Codes) -> str:
    """A name as it stands inside a sentence: its first letter small unless it is an eponym or an abbreviation."""
    first = name.split(" ", 1)[0]
    keeps = first in codes.proper_words or any(c.isupper() or c.isdigit() for c in first[1:]) or first.endswith("'s") or len(first) == 1
    return name if keeps else name[:1].lower() + name[1:]


def fill_frame(frame: str, values: Mapping[str, str]) -> str:
    """Put values into a frame and mend its spacing and first letter."""
    text = re.sub(r"\s+", " ", frame.format(**values)).strip()
    text = re.sub(r"\b([Aa]) (?=8|1[18]\b)", r"\1n ", text)
    return text[:1].upper() + text[1:]


def _tokens(text: str) -> list[str]:
    return re.findall(r"[a-z0-9']+(?:-[a-z0-9']+)*", text.lower())


def _only_difference(one: list[str], other: list[str]) -> tuple[str, str] | None:
    """The single stretch in which two token lists differ."""
    steps = [step for step in SequenceMatcher(None, one, other, autojunk=False).get_opcodes() if step[0] != "equal"]
    if len(steps) != 1 or steps[0][0] != "replace" or len(one) - (steps[0][2] - steps[0][1]) < 1:
        return None
    _, i, j, k, n = steps[0]
    return (" ".join(one[i:j]), " ".join(other[k:n])) if j - i <= 4 and n - k <= 4 else None


def _apart(one: str, other: str) -> bool:
    """Whether two phrases differ by more than spelling."""
    return SequenceMatcher(None, squeezed(one), squeezed(other), autojunk=False).ratio() < 0.97


def _word(expression: str) -> re.Pattern[str]:
    return re.compile(rf"(?<![\w-]){re.escape(expression)}(?![\w-])", re.IGNORECASE if not expression.isupper() else 0)


def _like(old: str, new: str) -> str:
    return new[:1].upper() + new[1:] if old[:1].isupper() and new[:1].islower() else new


def _upper(text: str) -> str:
    return text[:1].upper() + text[1:]


def _lower(text: str) -> str:
    return text if any(c.isupper() or c.isdigit() for c in text[1:2]) else text[:1].lower() + text[1:]
