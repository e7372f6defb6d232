"""How alike a piece of a row and a protected item are, in four ways, and how crowded it is around each item.

lexical: cosine of character n-grams weighted by rarity in the suite, identifiers taken apart. values: cosine of the numbers
and quoted strings. dense: cosine of the embeddings of what each says (`views.gist`). spread: the same after the suite's own
directions are levelled, so that what all its items have in common ("this function takes a list") counts for little.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain
from typing import Any, NamedTuple

import numpy as np

from curation.dedup.arrow_text import spread
from curation.leakage.ngrams import readable_rows

_FENCE = re.compile(r"```[^\n`]*\n?(.*?)(?:```|\Z)", re.DOTALL)

_NOTE = re.compile(r'"""(.*?)"""|\'\'\'(.*?)\'\'\'|/\*(.*?)\*/|(?:#(?!include|define|if|endif|else)|//)([^\n]*)', re.DOTALL)

_STATEMENT = re.compile(
    r"(?m)^\s*(?:def |class |import |from \w+ import|return\b|function |const |let |var |#include|int |char |float |double |void |bool "
    r"|for\b[^\n]*[({:]|while\b[^\n]*[({:]|if\b[^\n]*[({:])|[;{}]\s*$"
)

_DEFINITION = re.compile(r"(?m)^\s*(?:def|function|async function|fn|func)\s+\w+\s*\(|^\s*#include\b")

_NAME = re.compile(
    r"(?m)^\s*(?:def|fn|func|function|async function)\s+(\w+)|^[ \t]*(?:[A-Za-z_][\w<>,]*[ \t*&]+){1,4}(\w+)\s*\([^;{}]*\)\s*\{"
    r"|(?:const|let|var)\s+(\w+)\s*=\s*(?:async\s*)?(?:function|\([^)\n]*\)\s*=>)"
)

_JOINT = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|_|(?<=[A-Z])(?=[A-Z][a-z])")

_EXAMPLE = re.compile(
    r"^\s*(?:>>>|\*?\s*(?:input|output|example|for\b.*==|sample|print|console|assert|returns?:))|==|=>|➞|->|\w\([^)\n]*\d", re.IGNORECASE
)

_NUMBER = re.compile(r"(?<![\w.])-?\d[\d,]*(?:\.\d+)?")

_QUOTED = re.compile(r"'([^'\n]{1,60})'|\"([^\"\n]{1,60})\"")

_DIGIT = re.compile(r"\d")

_ONLY_LETTERS = bytes(code if 97 <= code <= 122 else 32 for code in range(256))

_KEYWORDS = {"main", "if", "for", "while", "switch", "return"}

_NUMERALS = {
    b"zero": "0", b"one": "1", b"two": "2", b"three": "3", b"four": "4", b"five": "5", b"six": "6", b"seven": "7", b"eight": "8",
    b"nine": "9", b"ten": "10", b"eleven": "11", b"twelve": "12", b"dozen": "12", b"twenty": "20", b"thirty": "30", b"forty": "40",
    b"fifty": "50", b"sixty": "60", b"hundred": "100", b"twice": "2", b"double": "2", b"thrice": "3", b"triple": "3", b"half": "1/2",
    b"quarter": "1/4",
}  # fmt: skip

_LINES = 2_000


def is_code(text: str) -> bool:
    """Whether a text is source code or holds some."""
    if "```" in text or _DEFINITION.search(text):
        return True
    found = len(_STATEMENT.findall(text))
    return found >= 2 and found / max(1, sum(1 for line in text.splitlines() if line.strip())) >= 0.15


def plain(text: str) -> str:
    """The text with the words inside its identifiers apart, so that `hasClose` and `has_close` read alike."""
    return _JOINT.sub(" ", text)


def gist(text: str) -> str:
    """What code is for, in words: its function names and what its comments say, without examples. Prose is its own gist."""
    if not is_code(text):
        return text
    blocks = _FENCE.findall(text)
    code, outside = ("\n".join(blocks), _FENCE.sub("\n", text)) if blocks else (text, "")
    names = [name for groups in _NAME.findall(code) for name in groups if name and name not in _KEYWORDS]
    notes = "\n".join(re.sub(r'(?m)^[\s"*]+', "", part) for groups in _NOTE.findall(code) for part in groups if part)
    said = [line.strip() for line in f"{notes}\n{outside}".splitlines()[:_LINES] if _is_said(line)]
    found = ". ".join(dict.fromkeys(plain(name) for name in names))
    return "\n".join([f"{found}.", *said]) if names or said else text


def values(text: str) -> Counter[str]:
    """The numbers of a text however they are written, and the quoted strings of code."""
    code = is_code(text)
    return Counter(chain(_numbers(text, spelt=not code), _strings(text) if code else ()))


def _is_said(line: str) -> bool:
    return len(re.findall(r"[^\W\d_]{2,}", line)) >= 3 and not _EXAMPLE.search(line)


def _numbers(text: str, *, spelt: bool) -> Iterator[str]:
    for found in _NUMBER.findall(text) if _DIGIT.search(text) else ():
        digits = found.replace(",", "").lstrip("-")
        yield f"{float(digits):g}" if digits.count(".") <= 1 and len(digits) < 300 else digits
    if spelt:
        letters = text.lower().encode("ascii", "replace").translate(_ONLY_LETTERS)
        yield from (_NUMERALS[word] for word in letters.split() if word in _NUMERALS)


def _strings(text: str) -> Iterator[str]:
    for groups in _QUOTED.findall(text):
        if found := "".join(groups).strip():
            yield f"'{found.lower()}'"


Array = np.ndarray[Any, np.dtype[Any]]

Encoder = Callable[[Sequence[str]], Array]
"""Texts to L2-normalized rows, as `functools.partial(embed, model=...)` gives."""

LEXICAL, VALUES, DENSE, LEVELLED = range(4)

_SHRINK = 1.0
"""Share of the mean variance that is added to every direction before levelling; a suite has fewer items than dimensions."""

_STRANGE = 0
"""Number of every value that no item holds."""


class Bags(NamedTuple):
    """For each text distinct numbers (of n-grams, of values) and how often it has them (1 + log), one text after another."""

    at: Array
    numbers: Array
    times: Array


class Prepared(NamedTuple):
    """Texts as the features read them."""

    grams: Bags
    values: Bags
    dense: Array | None

    def __len__(self) -> int:
        return len(self.grams.at) - 1


class Reader:
    """Reads texts for the features; a value has one number for all suites, and a text is embedded once."""

    def __init__(self, encode: Encoder | None, known: Mapping[str, Array]) -> None:
        self.encode, self.vectors = encode, dict(known)
        self.numbers: dict[str, int] = {}

    def learn(self, items: Sequence[str]) -> Prepared:
        """The bags and vectors of a suite's items, whose values get numbers of their own."""
        return self._read(items, [values(item) for item in items], learn=True)

    def read(self, texts: Sequence[str], *, has_values: Sequence[bool]) -> Prepared:
        """The bags and vectors of pieces of rows; of some the values, since most items hold none to compare them with."""
        return self._read(texts, [values(text) if wanted else {} for text, wanted in zip(texts, has_values, strict=True)], learn=False)

    def _read(self, texts: Sequence[str], held: Sequence[Mapping[str, int]], *, learn: bool) -> Prepared:
        dense = self._embedded([gist(text) for text in texts]) if self.encode else None
        return Prepared(_grams([plain(text) for text in texts]), self._numbered(held, learn), dense)

    def _numbered(self, texts: Sequence[Mapping[str, int]], learn: bool) -> Bags:
        at, found, counts = [0], list[int](), list[int]()
        for held in texts:
            found += [self.numbers.setdefault(v, len(self.numbers) + 1) if learn else self.numbers.get(v, _STRANGE) for v in held]
            counts += held.values()
            at.append(len(found))
        return Bags(np.array(at, np.int64), np.array(found, np.int32), 1 + np.log(np.array(counts, np.float64)))

    def _embedded(self, texts: Sequence[str]) -> Array:
        assert self.encode
        new = list(dict.fromkeys(text for text in texts if text not in self.vectors))
        if new:
            self.vectors.update(zip(new, self.encode(new), strict=True))
        return np.stack([self.vectors[text] for text in texts]).astype(np.float32) if len(texts) else np.zeros((0, 1), np.float32)


class SuiteFeatures:
    """The items of one suite, as pieces of rows are compared with them."""

    def __init__(self, items: Prepared, n_values: int) -> None:
        """`n_values`: how many values the items of all suites hold."""
        n = len(items)
        held_by = np.bincount(items.grams.numbers, minlength=1 << 20)
        # What no item holds ("Patient presents with ...") says nothing of which item is meant.
        common = np.log((1 + n) / (1 + held_by.max(initial=0))) + 1
        self.grams = _weighted(items.grams, held_by, n, unknown=common)
        held_by = np.bincount(items.values.numbers, minlength=n_values + 1)
        self.values = _weighted(items.values, held_by, n, unknown=0.3 * (np.log((1 + n) / 2) + 1))
        self.dense = items.dense
        if items.dense is not None:
            self.mean, self.level = _levelling(items.dense)
            self.levelled = self._levelled(items.dense)

    def compare(self, texts: Prepared, which: Array, candidates: Array) -> tuple[Array, Array]:
        """Some texts beside their candidate items (-1 is none): likeness, texts × candidates × features, and the share of the
        n-grams of the poorer of the two that the other has too."""
        likeness = np.zeros((*candidates.shape, 4 if self.dense is not None else 2))
        lexical, share = self.grams.cosines(texts.grams, which, candidates)
        likeness[:, :, LEXICAL] = lexical
        likeness[:, :, VALUES], _ = self.values.cosines(texts.values, which, candidates)
        if self.dense is not None and texts.dense is not None:
            known, dense = np.maximum(candidates, 0), texts.dense[which]
            likeness[:, :, DENSE] = np.einsum("nd,nkd->nk", dense, self.dense[known])
            likeness[:, :, LEVELLED] = np.einsum("nd,nkd->nk", self._levelled(dense), self.levelled[known])
        likeness[candidates < 0] = -1.0
        return likeness, share

    def nearest(self, dense: Array, most: int) -> Array:
        """The items nearest by embedding, for what shares few words with them."""
        assert self.dense is not None
        most = min(most, len(self.dense))
        return np.argpartition(-(dense @ self.dense.T), most - 1, axis=1)[:, :most].astype(np.int64)

    def _levelled(self, dense: Array) -> Array:
        moved = (dense - self.mean) @ self.level
        return np.asarray(moved / np.maximum(np.linalg.norm(moved, axis=1, keepdims=True), 1e-9), dtype=np.float32)


class _Weighted(NamedTuple):
    """The bags of items at unit length, and the weight of every number; 0 stands for `unknown`, so that most of it takes no memory."""

    at: Array
    numbers: Array
    unit: Array
    weights: Array
    unknown: float

    def cosines(self, bags: Bags, which: Array, candidates: Array) -> tuple[Array, Array]:
        from curation.leakage.kernels.grams import cosines_into

        cosine, share = np.zeros(candidates.shape), np.zeros(candidates.shape, np.float32)
        spread(cosines_into, len(which), which, *bags, *self[:3], candidates, self.weights, self.unknown, cosine, share)
        return cosine, share


def _weighted(bags: Bags, held_by: Array, n: int, *, unknown: float) -> _Weighted:
    """Weights by rarity; `unknown` for what no item holds."""
    weights = np.zeros(len(held_by))
    known = np.flatnonzero(held_by)
    weights[known] = np.log((1 + n) / (1 + held_by[known])) + 1
    values = bags.times * weights[bags.numbers]
    sums = np.append(0, np.cumsum(values**2))
    norms = np.sqrt(np.maximum(sums[bags.at[1:]] - sums[bags.at[:-1]], 1e-12))
    return _Weighted(bags.at, bags.numbers, (values / np.repeat(norms, np.diff(bags.at))).astype(np.float32), weights, float(unknown))


def _grams(texts: Sequence[str]) -> Bags:
    from curation.leakage.kernels.grams import bags_into

    rows = readable_rows(texts)
    at = np.append(0, np.cumsum(3 * (rows.sizes + rows.sizes // 2) + 12)).astype(np.int64)
    buckets, counts, filled = np.empty(int(at[-1]), np.int32), np.empty(int(at[-1]), np.int32), np.zeros(len(rows), np.int64)
    spread(bags_into, len(rows), *rows.arguments, at, buckets, counts, filled)
    starts = np.append(0, np.cumsum(filled)).astype(np.int64)
    kept = np.repeat(at[:-1] - starts[:-1], filled) + np.arange(starts[-1])
    return Bags(starts, buckets[kept], 1 + np.log(counts[kept].astype(np.float64)))


def _levelling(dense: Array) -> tuple[Array, Array]:
    mean = dense.mean(axis=0)
    spread_of, axes = np.linalg.eigh(np.cov((dense - mean).T, bias=True) if len(dense) > 1 else np.eye(dense.shape[1]))
    variance = np.maximum(spread_of, 0)
    return mean, np.asarray(axes * (variance + _SHRINK * variance.mean() + 1e-12) ** -0.5)
