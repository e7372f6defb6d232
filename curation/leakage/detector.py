"""Score every row against the protected items, and cut where what is known not to leak stays on the other side."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from curation.dedup.arrow_text import Rows, Texts, text_of
from curation.dedup.normalization import checked_length, strings
from curation.leakage.calibration import OperatingPoint
from curation.leakage.edited_copies import edited_evidence
from curation.leakage.features import Array, Encoder
from curation.leakage.ngrams import ANCHOR, Span, SpanScanner, has_words, readable_rows, words
from curation.leakage.paraphrase import Reworded, Rewording
from curation.leakage.reference import AllowedTexts, segments, shorten

LEAKS = pa.schema(
    {"row": pa.int64(), "suite": pa.string(), "item": pa.int64(), "kind": pa.string(), "score": pa.float64(), "evidence": pa.string()}
)
SCORES = LEAKS.append(pa.field("is_leak", pa.bool_())).append(pa.field("is_uncertain", pa.bool_()))

SPAN_SHARE = 0.5
"""Part of a long item that a shared span must hold."""
_BLOCK = 2048


class Item(NamedTuple):
    """One protected text."""

    suite: str
    place: int
    text: str
    label: str | None


class Found(NamedTuple):
    """What one layer says of one row."""

    item: int
    kind: str
    score: float
    evidence: str
    is_leak: bool
    is_uncertain: bool = False


class LeakScreen:
    """The protected items, indexed once for all layers; `score` may be called for any number of batches of rows."""

    def __init__(
        self,
        protected: Mapping[str, Sequence[str]],
        *,
        allowed: Sequence[str] = (),
        encode: Encoder | None = None,
        known: Mapping[str, Array] | None = None,
        protected_labels: Mapping[str, Sequence[str | None]] | None = None,
        false_positive_rate: float = 0.01,
    ) -> None:
        """`known`: vectors by text that exist already; the others as for `score_leaks`."""
        self.items = _items(protected, protected_labels)
        texts, suites = [item.text for item in self.items], [item.suite for item in self.items]
        tokens = {words(text) for text in texts} if allowed else set()
        may = [text for text in dict.fromkeys(allowed) if words(text) and words(text) not in tokens]
        self.texts, self.labels = texts, [item.label for item in self.items]
        self.scanner = SpanScanner(texts) if texts else None
        self.beside = AllowedTexts(texts, self.labels, may, encode=encode, known=known or {}) if texts and may else None
        self.rewording: Rewording | None = None
        if self.scanner and not self.beside:
            self.rewording = Rewording(texts, suites, scanner=self.scanner, encode=encode, known=known or {}, rate=false_positive_rate)

    @property
    def operating_points(self) -> tuple[OperatingPoint, ...]:
        """Where each suite's cut for rewordings lies; empty when texts that may be trained on decide, phrase by phrase."""
        return tuple(scale.point(name) for name, _, scale in self.rewording.suites) if self.rewording else ()

    def score(self, texts: Texts, *, labels: Sequence[str | None] | None = None, copies_only: bool = False) -> pa.Table:
        """One line per row, as `score_leaks` gives them; with `copies_only` nothing is said of rewordings, and it takes less time."""
        rows = readable_rows(texts)
        checked_length(labels, len(rows), "labels")
        if self.scanner is None or not len(rows):
            return SCORES.empty_table()
        flags = self.scanner.flags(rows)
        found = [Found(0, "none", 0.0, "", False)] * len(rows)
        for row, shared in self.scanner.spans(rows, flags).items():
            copied = self._word_for_word(text_of(rows, row), labels[row] if labels else None, shared)
            found[row] = copied or found[row]
        left = [row for row, one in enumerate(found) if not one.is_leak]
        for row, one in self._beside(rows, left, labels) if self.beside else ():
            found[row] = one
        if self.rewording:
            near = self.rewording.find(rows, among=np.array(left, np.int64), flags=flags, copies_only=copies_only)
            for row, said in near.items():
                found[row] = _reworded(said, self.texts[said.item])
        return _table(self.items, found)

    def _beside(self, rows: Rows, left: Sequence[int], labels: Sequence[str | None] | None) -> Iterator[tuple[int, Found]]:
        assert self.beside
        for start in range(0, len(left), _BLOCK):
            block = left[start : start + _BLOCK]
            own = [labels[row] if labels else None for row in block]
            judged = self.beside.judge([text_of(rows, row) for row in block], own)
            yield from ((row, Found(*one)) for row, one in zip(block, judged, strict=True))

    def _word_for_word(self, text: str, label: str | None, shared: Sequence[Span]) -> Found | None:
        tokens, pieces = words(text), segments(text)
        cover = self.beside.cover(tokens) if self.beside else []
        for span in sorted(shared, key=lambda span: (-span.share, span.start - span.stop, span.item)):
            length, said = span.stop - span.start, tokens[span.start : span.stop]
            whole = span.share == 1
            if not whole and (length < ANCHOR or (span.share < SPAN_SHARE and length < len(tokens))):
                continue
            if length == 1 and label != self.labels[span.item] and not any(words(piece) == said for piece in pieces):
                continue  # one common word in passing
            if any(_explains(other, span) for other in cover):
                continue
            kind = "exact" if whole and length == len(tokens) else "contained" if whole else "span"
            return Found(span.item, kind, 2 * span.share, f"shares {' '.join(said)!r}, {span.share:.0%} of the item", True)
        return None


def find_leaks(
    texts: Texts,
    protected: Mapping[str, Sequence[str]],
    *,
    allowed: Sequence[str] = (),
    encode: Encoder | None = None,
    vectors: Array | None = None,
    protected_vectors: Mapping[str, Array] | None = None,
    labels: Sequence[str | None] | None = None,
    protected_labels: Mapping[str, Sequence[str | None]] | None = None,
    false_positive_rate: float = 0.01,
) -> pa.Table:
    """Find the rows that give a protected item away. Arguments as for `score_leaks`.

    Returns one line per leaking row, its strongest match: row, suite, item (place within the suite), kind (exact,
    contained, span, edited, reworded), score, evidence.
    """
    scores = score_leaks(
        texts,
        protected,
        allowed=allowed,
        encode=encode,
        vectors=vectors,
        protected_vectors=protected_vectors,
        labels=labels,
        protected_labels=protected_labels,
        false_positive_rate=false_positive_rate,
    )
    return scores.filter(scores["is_leak"]).select(LEAKS.names)


def score_leaks(
    texts: Texts,
    protected: Mapping[str, Sequence[str]],
    *,
    allowed: Sequence[str] = (),
    encode: Encoder | None = None,
    vectors: Array | None = None,
    protected_vectors: Mapping[str, Array] | None = None,
    labels: Sequence[str | None] | None = None,
    protected_labels: Mapping[str, Sequence[str | None]] | None = None,
    false_positive_rate: float = 0.01,
) -> pa.Table:
    """Score every row against its nearest protected item, without a cut; `is_leak` says on which side of it the row falls.

    Args:
        protected: suite name to its texts.
        allowed: texts that lie as near to the protected ones as training rows may (the other official terms, the training
            split of the same benchmark). A row is then reworded from an item only if it is nearer to it than to all of
            these. Without them the cut is where the nearest *other* item of the suites would be flagged at
            `false_positive_rate`, which on suites of near twins leaves little to find.
        encode: embeds texts; adds the dense half of the last layer.
        vectors, protected_vectors: embeddings that exist already, so that they are not computed again.
        labels, protected_labels: classes, where rows and items have them; an item of another class needs more evidence.

    Returns one line per row: row, suite, item, kind, score, evidence, is_leak, is_uncertain. Score is 2 for a whole item
    word for word and otherwise how alike row and item are (0 to 2; of a rewording without `allowed`, 1 is the suite's cut), so
    that one curve can be drawn over all. Uncertain rows are below the cut, where a judge still finds leaks.
    """
    checked_length(vectors, len(texts), "vectors")
    checked_length(labels, len(texts), "labels")
    known = dict(zip(strings(texts), vectors, strict=True)) if vectors is not None else {}
    for suite, given in (protected_vectors or {}).items():
        known |= dict(zip(protected[suite], given, strict=True))
    screen = LeakScreen(
        protected, allowed=allowed, encode=encode, known=known, protected_labels=protected_labels, false_positive_rate=false_positive_rate
    )  # fmt: skip
    return screen.score(texts, labels=labels)


def _items(protected: Mapping[str, Sequence[str]], labels: Mapping[str, Sequence[str | None]] | None) -> list[Item]:
    items = []
    for suite, texts in protected.items():
        classes = (labels or {}).get(suite)
        checked_length(classes, len(texts), f"protected_labels[{suite!r}]")
        items += [Item(suite, n, text, classes[n] if classes is not None else None) for n, text in enumerate(texts) if has_words(text)]
    return items


def _table(items: Sequence[Item], found: Sequence[Found]) -> pa.Table:
    """One line per row; columns are built whole, since there can be millions of rows."""
    suites = pa.array([item.suite for item in items], pa.string())
    which = pa.array([one.item for one in found], pa.int64())
    columns = [
        pa.array(np.arange(len(found))), suites.take(which), pa.array([item.place for item in items], pa.int64()).take(which),
        pa.array([one.kind for one in found], pa.string()), pa.array([one.score for one in found], pa.float64()),
        pa.array([one.evidence for one in found], pa.string()), pa.array([one.is_leak for one in found], pa.bool_()),
        pa.array([one.is_uncertain for one in found], pa.bool_()),
    ]  # fmt: skip
    return pa.table(columns, schema=SCORES)


def _reworded(said: Reworded, item: str) -> Found:
    names = ("words", "values", "meaning", "meaning beside its fellows")
    parts = ", ".join(f"{name} {value:.2f}" for name, value in zip(names, said.likeness, strict=False))
    if said.ratio:
        return Found(said.item, "edited", said.ratio / 50, edited_evidence(said.ratio), True)
    score = 2 / (1 + float(np.exp(-np.clip(said.margin, -30, 30))))
    evidence = f"{shorten(said.piece)!r} is like {shorten(item)!r}: {parts}; {said.margin:+.1f} standard deviations from the suite's cut"
    return Found(said.item, "reworded", score, evidence, said.margin > 0, said.possible and said.margin <= 0)


def _explains(allowed: Span, span: Span) -> bool:
    """The shared words are part of a longer piece of a text that may be trained on."""
    covers = allowed.start <= span.start and allowed.stop >= span.stop
    return covers and (allowed.stop - allowed.start > span.stop - span.start or span.share < 1)
