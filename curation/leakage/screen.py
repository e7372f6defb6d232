"""Score every row against the protected items, and cut where what is known not to leak stays on the other side."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from curation.dedup.text import checked_length, normalize, strings
from curation.leakage.similarity import Array, Encoder, Resemblance, segments
from curation.leakage.spans import ANCHOR, SHARED_BY, Span, SpanIndex, words

LEAKS = pa.schema(
    {"row": pa.int64(), "suite": pa.string(), "item": pa.int64(), "kind": pa.string(), "score": pa.float64(), "evidence": pa.string()}
)
SCORES = LEAKS.append(pa.field("is_leak", pa.bool_()))

SPAN_SHARE = 0.5
"""Part of a long item that a shared span must hold."""
FLOOR = {True: 1.0, False: 0.4}
"""Least similarity (lexical plus dense, or lexical alone) at which two texts may say the same at all."""
ENOUGH = 100
"""Items from which the similarity of the nearest other one says where a cut belongs; fewer get `UNCALIBRATED` at least."""
UNCALIBRATED = {True: 1.2, False: 0.6}
OTHER_LABEL = 0.3
"""How much nearer than any allowed text an item of another label must be: the same words for another class are rarely it."""
EDITED = 90.0
"""Partial ratio from which a long item counts as copied and edited, unless two protected items are that alike."""

_LONG = 40
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


def find_leaks(
    texts: Sequence[str] | pa.Array,
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
    texts: Sequence[str] | pa.Array,
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

    Returns one line per row: row, suite, item, kind, score, evidence, is_leak. Score is 2 for a whole item word for word
    and otherwise how alike row and item are (0 to 2), so that one curve can be drawn over all.
    """
    values = strings(texts)
    items = _items(protected, protected_labels)
    for column, name in ((vectors, "vectors"), (labels, "labels")):
        checked_length(column, len(values), name)
    if not items or not values:
        return SCORES.empty_table()
    known = dict(zip(values, vectors, strict=True)) if vectors is not None else {}
    for suite, rows in (protected_vectors or {}).items():
        known |= dict(zip(protected[suite], rows, strict=True))
    screen = _Screen(items, allowed, encode=encode, known=known, false_positive_rate=false_positive_rate)
    kinds = labels if labels is not None else [None] * len(values)
    lines = []
    for start in range(0, len(values), _BLOCK):
        block = values[start : start + _BLOCK]
        for place, found in enumerate(screen.judge(block, kinds[start : start + _BLOCK])):
            item = items[found.item]
            lines.append((start + place, item.suite, item.place, found.kind, found.score, found.evidence, found.is_leak))
    return pa.table([list(column) for column in zip(*lines, strict=True)], schema=SCORES)


def _items(protected: Mapping[str, Sequence[str]], labels: Mapping[str, Sequence[str | None]] | None) -> list[Item]:
    items = []
    for suite, texts in protected.items():
        classes = (labels or {}).get(suite)
        checked_length(classes, len(texts), f"protected_labels[{suite!r}]")
        items += [Item(suite, n, text, classes[n] if classes is not None else None) for n, text in enumerate(texts) if words(text)]
    return items


class _Screen:
    """The protected items, indexed once for all layers."""

    def __init__(
        self,
        items: Sequence[Item],
        allowed: Sequence[str],
        *,
        encode: Encoder | None,
        known: Mapping[str, Array],
        false_positive_rate: float,
    ) -> None:
        self.items = items
        texts = [item.text for item in items]
        tokens = {words(text) for text in texts}
        self.allowed = [text for text in dict.fromkeys(allowed) if words(text) and words(text) not in tokens]
        self.labels = [item.label for item in items]
        self.spans, self.allowed_spans = SpanIndex(texts), SpanIndex(self.allowed)
        self.resemblance = Resemblance(texts, self.allowed, encode=encode, known=known)
        fellows = _Fellows(self.resemblance, texts)
        self.crowding = np.zeros(len(items)) if self.allowed else fellows.crowding
        self.cut = FLOOR[self.resemblance.dense] if self.allowed else fellows.similarity_at(false_positive_rate)
        if not self.allowed and len(items) < ENOUGH:
            self.cut = max(self.cut, UNCALIBRATED[self.resemblance.dense])
        self.edited = max(EDITED, fellows.ratio_at(false_positive_rate))

    def judge(self, texts: Sequence[str], labels: Sequence[str | None]) -> Iterator[Found]:
        """The strongest finding of each text."""
        pieces = [segments(text) for text in texts]
        flat = [piece for row in pieces for piece in row]
        to_items, to_allowed = self.resemblance.compare(flat)
        stop = 0
        for text, label, row in zip(texts, labels, pieces, strict=True):
            start, stop = stop, stop + len(row)
            alike = to_items[start:stop]
            found = self._word_for_word(text, label, row) or self._edited(text, alike)
            yield found or self._in_other_words(label, row, alike, to_allowed[start:stop])

    def _word_for_word(self, text: str, label: str | None, pieces: Sequence[str]) -> Found | None:
        tokens = words(text)
        cover = self.allowed_spans.spans(tokens) if self.allowed else []
        spans = sorted(self.spans.spans(tokens), key=lambda span: (-span.share, span.start - span.stop, span.item))
        for span in spans:
            length, shared = span.stop - span.start, tokens[span.start : span.stop]
            whole = span.share == 1
            if not whole and (length < ANCHOR or (span.share < SPAN_SHARE and length < len(tokens))):
                continue
            if length == 1 and label != self.labels[span.item] and not any(words(piece) == shared for piece in pieces):
                continue  # one common word in passing
            if any(_explains(other, span) for other in cover):
                continue
            kind = "exact" if whole and length == len(tokens) else "contained" if whole else "span"
            return Found(span.item, kind, 2 * span.share, f"shares {' '.join(shared)!r}, {span.share:.0%} of the item", True)
        return None

    def _in_other_words(self, label: str | None, pieces: Sequence[str], to_items: Array, to_allowed: Array) -> Found:
        if self.allowed:
            demand = np.array([OTHER_LABEL if label is not None and own is not None and own != label else 0.0 for own in self.labels])
            margin = to_items - np.maximum(to_allowed, 0.0)[:, None] - demand
            ranked = np.where(to_items >= self.cut, margin, margin - 10)
        else:
            ranked = margin = np.where(_is_boilerplate(to_items)[:, None], 0.0, to_items - self.crowding)
        passing = [place > 0 and len(words(piece)) == 1 for place, piece in enumerate(pieces)]  # one word is no rewording
        ranked = np.where(np.array(passing)[:, None], -20.0, ranked)
        place, item = divmod(int(ranked.argmax()), ranked.shape[1])
        score = float(to_items[place, item] - self.crowding[item])
        is_leak = score >= self.cut and bool(margin[place, item] > 0)
        return Found(item, "reworded", score, self._evidence(pieces[place], item, score, float(to_allowed[place])), is_leak)

    def _edited(self, text: str, to_items: Array) -> Found | None:
        """An edited copy of a long item inside the row, or of a long row inside an item; short ones are too easily alike."""
        from rapidfuzz.fuzz import partial_ratio

        own = normalize(text)
        near = np.argsort(-to_items.max(axis=0), kind="stable")[:5].tolist()
        for item in near:
            if min(len(own), len(normalize(self.items[item].text))) < _LONG:
                continue
            ratio = partial_ratio(own, normalize(self.items[item].text))
            if ratio < self.edited or self._allowed_ratio(own, text) >= ratio:
                continue
            return Found(int(item), "edited", ratio / 50, f"{ratio:.0f} % of the shorter of the two agrees letter for letter", True)
        return None

    def _allowed_ratio(self, own: str, text: str) -> float:
        from rapidfuzz.fuzz import partial_ratio

        return partial_ratio(own, normalize(self.allowed[self.resemblance.nearest_allowed(text)])) if self.allowed else 0.0

    def _evidence(self, piece: str, item: int, score: float, to_allowed: float) -> str:
        said = f"{_shorten(piece)!r} is like {_shorten(self.items[item].text)!r}: {score:.2f}, cut {self.cut:.2f}"
        return f"{said}; nearest allowed text {to_allowed:.2f}" if self.allowed else said


class _Fellows:
    """How alike the protected items are among themselves: the hard negatives that a cut has to leave alone."""

    def __init__(self, resemblance: Resemblance, texts: Sequence[str]) -> None:
        self.resemblance, self.texts = resemblance, texts
        self.keys = np.unique([hash(words(text)) for text in texts], return_inverse=True)[1]
        nearest = [np.sort(among, axis=1)[:, -3:] for among in self._among()]
        fellows = np.concatenate(nearest)
        self.crowding: Array = np.where(fellows > 0, fellows, 0.0).mean(axis=1) / 2
        """Half an item's mean similarity to its three nearest: dense regions of a suite stop looking like leaks."""

    def similarity_at(self, rate: float) -> float:
        """The corrected similarity to the nearest other item that only this share of the items passes."""
        nearest = np.concatenate([(among - self.crowding).max(axis=1) for among in self._among()])
        return float(np.quantile(nearest, 1 - rate)) + 1e-9

    def ratio_at(self, rate: float) -> float:
        """The partial ratio with the nearest other item that only this share of the long items passes."""
        from rapidfuzz.fuzz import partial_ratio

        near = np.concatenate([among.argmax(axis=1) for among in self._among()]).tolist()
        long = [place for place, text in enumerate(self.texts) if len(text) >= _LONG]
        ratios = [partial_ratio(normalize(self.texts[place]), normalize(self.texts[near[place]])) for place in long]
        return float(np.quantile(ratios, 1 - rate)) + 1e-9 if len(self.texts) > 1 and ratios else 0.0

    def _among(self) -> Iterator[Array]:
        for start in range(0, len(self.texts), _BLOCK):
            among, _ = self.resemblance.compare(self.texts[start : start + _BLOCK])
            same = self.keys[start : start + _BLOCK, None] == self.keys[None, :]  # an item is no negative of its own copy
            yield np.where(same, -1.0, among)


def _is_boilerplate(to_items: Array) -> Array:
    """Pieces as like to several items as to the best one: a frame they share, not the one item that leaked."""
    if to_items.shape[1] < SHARED_BY:
        return np.zeros(len(to_items), dtype=bool)
    best = np.sort(to_items, axis=1)[:, ::-1]
    return np.asarray(best[:, SHARED_BY - 1] >= 0.9 * best[:, 0])


def _explains(allowed: Span, span: Span) -> bool:
    """The shared words are part of a longer piece of a text that may be trained on."""
    covers = allowed.start <= span.start and allowed.stop >= span.stop
    return covers and (allowed.stop - allowed.start > span.stop - span.start or span.share < 1)


def _shorten(text: str, most: int = 100) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"
