"""Find rows that paraphrase a protected item, with thresholds calibrated on the suite's own items.

Candidates come from shared word parts (`ngrams.Shortlist`) and, with embeddings, from nearest neighbours. Each piece of a row is compared
with its candidates by four features (`features`), and the sum is measured against the suite's hard negatives (`calibration`).

Boilerplate (words that several protected items share, such as a passage with many questions or a fixed instruction) does not identify an
item and makes items look similar to one another, so it is removed from items and rows before they are compared.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence, Set
from typing import NamedTuple

import numpy as np

from curation.dedup.arrow_text import Array, Rows, bytes_of, text_of, with_texts
from curation.dedup.normalization import normalize
from curation.leakage.calibration import RowCut, Scale, background_cuts, calibrate, cut_by_rows, numbered, repeats
from curation.leakage.features import DENSE, LEXICAL, LONG, EditedCopies, Encoder, Prepared, Reader, SuiteFeatures
from curation.leakage.ngrams import (
    ANCHOR,
    HAS_BOILERPLATE,
    SHARED_BY,
    WORD,
    Candidates,
    Shortlist,
    SpanScanner,
    has_two_words,
    readable_rows,
    words,
    words_of,
)
from curation.leakage.reference import segments

# Words above which an item is compared in pieces, and words of a piece: a row may leak a part of a long passage.
LONG_ITEM, PIECE = 250, 160
# Words up to which an item is also compared with single clauses: a phrase is lost in the average of a long note.
SHORT_ITEM = 12
# Words of a passage that two items share: what else an item has, its question, is compared too.
PASSAGE = 30
CANDIDATES = 12
# A row is compared with an item if their word parts are more similar than this quantile of items with their nearest other
# one (by: has embeddings). Below it no row was found that the comparison would have flagged.
FLOOR = {True: 0.1, False: 0.5}

_CLAUSES, _CHARACTERS = 32, 20_000
# Candidates by embedding, per suite.
_BY_EMBEDDING = 4
_BLOCK = 4096

# Words that must remain; a text that is boilerplate almost completely is compared unchanged.
_LEFT = 5


class ParaphraseMatch(NamedTuple):
    """The item a row is nearest to."""

    item: int
    margin: float
    """Standard deviations above the suite's cut."""
    possible: bool
    """Below the cut, but nearer than nine in ten hard negatives at a false positive rate of .01."""
    piece: str
    similarity: tuple[float, ...]
    """Lexical and values; with an encoder also dense and whitened."""
    ratio: float = 0.0
    """Share of letters (0 to 100) in common with an edited copy of a long item; 0 if there is none."""
    suite: int = 0
    """Place of the suite in `ParaphraseDetector.scales`."""
    second: float = -np.inf
    """Margin of the best other item of the suite, over all pieces of the row; -inf if there is none."""
    language: str = ""
    """Language of the row, if it translates the item; `similarity` then is the cosine and that of numbers and formulas."""


MARGINS = (("margin", float), ("second", float), ("item", int), ("suite", int))
"""Fields of a match that lower the cuts, in the order of `ParaphraseDetector.lower_cuts_by`, and their types."""


class _Comparison(NamedTuple):
    """Pieces compared with their candidates; all arrays are (pieces, candidates)."""

    similarity: Array
    """(pieces, candidates, features)."""
    share: Array
    """Share of n-grams in common."""
    margin: Array
    """Standard deviations above the cut."""
    loose: Array
    """Margin above which a leak is possible."""


class ParaphraseDetector:
    """The protected items of all suites, calibrated suite by suite.

    Long items are split into pieces; a *unit* is an item or a piece of one.
    """

    def __init__(
        self,
        items: Sequence[str],
        suites: Sequence[str],
        *,
        scanner: SpanScanner | None = None,
        encode: Encoder | None,
        known: Mapping[str, Array],
        rate: float,
    ) -> None:
        """Index and calibrate the items.

        Args:
            items: protected texts.
            suites: suite of each.
            scanner: span index of the items, if it exists already.
            encode: embeds texts; None for lexical features only.
            known: embeddings by text that exist already.
            rate: share of hard negatives that may pass.
        """
        self.boilerplate = Boilerplate(items, scanner)
        rows = readable_rows(items)
        shared = self.boilerplate.scanner.table(rows, self.boilerplate.scanner.flags(rows))
        shared = shared[shared[:, 0] != shared[:, 1]]
        bodies = [*items]
        for place in self.boilerplate.holders:
            bodies[place] = self.boilerplate.remove(items[place])
        units = list[tuple[int, str]]()
        for owner, item in enumerate(bodies):
            units += [(owner, piece) for piece in pieces_of(item)]
        units += [(owner, text) for owner, text in _questions(items, shared) if text != bodies[owner]]
        units.sort(key=lambda unit: unit[0])
        self.owners, self.texts = np.array([owner for owner, _ in units]), [piece for _, piece in units]
        self.reader, self.rate = Reader(encode, known), rate
        self.shortlist, self.copies = Shortlist(self.texts), EditedCopies(self.texts)
        # One number for all units of items with the same text: a suite that is protected twice is no boilerplate.
        self.twins = numbered([items[owner] for owner in self.owners.tolist()])
        self.is_long = [len(text) >= LONG for text in self.texts]
        self.short: list[bool] = (np.diff(words_of(readable_rows(self.texts))[1]) <= SHORT_ITEM).tolist()
        self.place, self.suite = np.zeros(len(units), np.int64), np.zeros(len(units), np.int64)
        self.has_values, self.floor = np.zeros(len(units), np.bool_), np.zeros(len(units))
        self.suites: list[tuple[str, SuiteFeatures, Scale]] = []
        self.scales: list[tuple[str, Scale]] = []
        """Name and calibration of each suite by its number, of the translations after those of `suites`."""
        self.row_cuts: dict[str, RowCut] = {}
        """Cuts by the rows, by suite; see `lower_cuts`."""
        # Pairs of items that share a span word for word.
        copied = set(map(tuple, shared[shared[:, 3] - shared[:, 2] >= ANCHOR, :2].tolist()))
        self._calibrate_suites([suites[owner] for owner in self.owners.tolist()], copied)

    def find(
        self,
        rows: Rows,
        *,
        among: Array | None = None,
        without: Sequence[int] | None = None,
        flags: Array | None = None,
        copies_only: bool = False,
    ) -> dict[int, ParaphraseMatch]:
        """Return every row that comes near an item, with its nearest item.

        Args:
            rows: the rows.
            among: rows to look at; all when None.
            without: an item to ignore for each row, to measure the hardest other item.
            flags: the scanner's flags of each row, if they are known.
            copies_only: find edited copies only, no paraphrases.
        """
        rows = self.boilerplate.remove_from(rows, self.boilerplate.scanner.flags(rows) if flags is None else flags)
        near = self.shortlist.find(rows, most=CANDIDATES, floors=self.floor)
        if without is not None:
            near = near._replace(item=np.where(self.owners[near.item] == np.asarray(without)[:, None], -1, near.item))
        close = (near.score > self.floor[np.maximum(near.item, 0)]) & (near.item >= 0)
        which = np.flatnonzero(close.any(axis=1))
        which = which if among is None else np.intersect1d(which, among)
        found: dict[int, ParaphraseMatch] = {}
        for start in range(0, len(which), _BLOCK):
            found |= self._compare_rows(rows, which[start : start + _BLOCK].tolist(), near, without, copies_only)
        return found

    def lower_cuts(self, found: Collection[ParaphraseMatch], n_rows: int) -> None:
        """Lower the cut of each suite by the rows (`cut_by_rows`, `background_cuts`); a cut by more rows replaces one by fewer.

        Args:
            found: the nearest item of each compared row.
            n_rows: all rows that were screened.
        """
        self.lower_cuts_by(*(np.array([getattr(match, name) for match in found], kind) for name, kind in MARGINS), n_rows=n_rows)

    def lower_cuts_by(self, best: Array, second: Array, item: Array, of_suite: Array, *, n_rows: int) -> None:
        """Lower the cuts as `lower_cuts` does, by columns of matches.

        Args:
            best: margin of each match.
            second: margin of its second-best item.
            item: its item.
            of_suite: its suite.
            n_rows: all rows that were screened.
        """
        over = best.copy()
        for number, (name, scale) in enumerate(self.scales):
            own = of_suite == number
            known = self.row_cuts.get(name)
            cut = cut_by_rows(best[own] + scale.cut, second[own] + scale.cut, item[own], scale, rate=self.rate)
            if cut and (known is None or cut.rows >= known.rows):
                self.row_cuts[name] = cut
            # Rows beyond a cut that is lower already count as flagged.
            over[own & (best > self._row_cut(name, scale) - scale.cut)] = np.inf
        scales = [scale for _, scale in self.scales]
        for number, cut in background_cuts(over, of_suite, scales, n_rows, rate=self.rate).items():
            name, scale = self.scales[number]
            if cut.cut < self._row_cut(name, scale):
                self.row_cuts[name] = cut

    def over_cut(self, match: ParaphraseMatch) -> float:
        """Return the margin of a match over its suite's cut, by the rows if they lowered it."""
        name, scale = self.scales[match.suite]
        return match.margin + scale.cut - self._row_cut(name, scale)

    def _row_cut(self, name: str, scale: Scale) -> float:
        return self.row_cuts[name].cut if name in self.row_cuts else scale.cut

    def _calibrate_suites(self, of_suite: Sequence[str], copied: Set[tuple[int, int]]) -> None:
        """Calibrate the cut, the floor and the edited-copy ratio of each suite; `of_suite` is the suite of each unit."""
        names = np.array(of_suite)
        owned = {name: np.flatnonzero(names == name) for name in dict.fromkeys(of_suite)}
        # All suites are read first: the numbers of values are shared.
        read = {name: self.reader.learn([self.texts[unit] for unit in own.tolist()]) for name, own in owned.items()}
        for number, (name, own) in enumerate(owned.items()):
            texts = [self.texts[unit] for unit in own.tolist()]
            features = SuiteFeatures(read[name], len(self.reader.numbers))
            scale = calibrate(texts, features, read[name], self.owners[own], copied=copied, rate=self.rate)
            self.suites.append((name, features, scale))
            self.scales.append((name, scale))
            self.place[own], self.suite[own] = np.arange(len(own)), number
            self.has_values[own] = np.diff(read[name].values.at) > 0
        near = self.shortlist.find(readable_rows(self.texts), most=CANDIDATES)
        other = (near.item >= 0) & (self.twins[np.maximum(near.item, 0)] != self.twins[:, None])
        scores = np.where(other, near.score, 0.0)
        nearest, at = scores.max(axis=1), scores.argmax(axis=1)
        neighbour = np.where(nearest > 0, near.item[np.arange(len(at)), at], -1)
        for name, own in owned.items():
            self.floor[own] = min(float(np.quantile(nearest[own], FLOOR[self.reader.encode is not None])), 0.35)
            share = self._compare(read[name], neighbour[own][:, None]).share
            self.copies.calibrate(own, neighbour[own], share[:, 0], rate=self.rate)

    def _compare_rows(
        self, rows: Rows, which: Sequence[int], near: Candidates, without: Sequence[int] | None, copies_only: bool
    ) -> dict[int, ParaphraseMatch]:
        windows = zip(which, near.item[which].tolist(), near.begin[which].tolist(), near.end[which].tolist(), strict=True)
        pieces = [
            (row, *piece)
            for row, items, begins, ends in windows
            for piece in self._pieces(bytes_of(rows, row), zip(items, begins, ends, strict=True), copies_only)
        ]
        if not pieces:
            return {}
        owner, texts = np.array([row for row, _, _ in pieces]), [text for _, text, _ in pieces]
        candidates = np.array([units for _, _, units in pieces])
        # With embeddings any item may become a candidate, so the values of every piece are needed.
        wanted = (self.has_values[candidates] & (candidates >= 0)).any(axis=1) | (self.reader.encode is not None)
        prepared = self.reader.read(texts, has_values=(wanted & (not copies_only)).tolist())
        if prepared.dense is not None:
            # The nearest units of each suite by embedding.
            by_suite = [np.flatnonzero(self.suite == number) for number in range(len(self.suites))]
            nearest = np.concatenate(
                [own[features.nearest(prepared.dense, _BY_EMBEDDING)] for own, (_, features, _) in zip(by_suite, self.suites, strict=True)],
                axis=1,
            )
            if without is not None:
                nearest = np.where(self.owners[nearest] == np.asarray(without)[owner][:, None], -1, nearest)
            candidates = np.concatenate([candidates, nearest], axis=1)
        candidates = np.where(repeats(candidates), -1, candidates)
        compared = self._compare(prepared, candidates)
        copied, ratio = self.copies.find(texts, candidates, compared.similarity[:, :, LEXICAL], compared.share)
        best = compared.margin.argmax(axis=1)
        every = np.arange(len(pieces))
        unit, over = candidates[every, best], compared.margin[every, best]
        possible = over > compared.loose[every, best]
        found: dict[int, ParaphraseMatch] = {}
        # Sorted so that the strongest piece of each row comes last and overwrites the others.
        for place in np.lexsort((-every, over, ratio)).tolist():
            at = int(best[place])
            if unit[place] >= 0 and (ratio[place] or not copies_only):
                item = self.owners[copied[place] if ratio[place] else unit[place]]
                similarity = tuple(compared.similarity[place, at].tolist())
                found[int(owner[place])] = ParaphraseMatch(
                    int(item),
                    float(over[place]),
                    bool(possible[place]),
                    texts[place],
                    similarity,
                    float(ratio[place]),
                    int(self.suite[unit[place]]),
                )
        # The best other item of each row: another text of the same suite.
        known = np.maximum(candidates, 0)
        own, suite = np.full(len(rows), -1), np.full(len(rows), -1)
        for row, match in found.items():
            own[row], suite[row] = self.twins[np.searchsorted(self.owners, match.item)], match.suite
        is_other = (candidates >= 0) & (self.twins[known] != own[owner][:, None]) & (self.suite[known] == suite[owner][:, None])
        second = np.full(len(rows), -np.inf)
        np.maximum.at(second, owner, np.where(is_other, compared.margin, -np.inf).max(axis=1, initial=-np.inf))
        return {row: match._replace(second=float(second[row])) for row, match in found.items()}

    def _compare(self, prepared: Prepared, candidates: Array) -> _Comparison:
        dense = prepared.dense is not None
        similarity, share = np.zeros((*candidates.shape, 4 if dense else 2)), np.zeros(candidates.shape)
        margin, loose = np.full(candidates.shape, -np.inf), np.zeros(candidates.shape)
        of_suite = np.where(candidates >= 0, self.suite[np.maximum(candidates, 0)], -1)
        for number, (_, features, scale) in enumerate(self.suites):
            mine = of_suite == number
            touched = np.flatnonzero(mine.any(axis=1))
            if not len(touched):
                continue
            places = np.where(mine[touched], self.place[np.maximum(candidates[touched], 0)], -1)
            found, common = features.compare(prepared, touched, places)
            here = np.nonzero(mine[touched])
            at = (touched[here[0]], here[1])
            similarity[at], share[at], margin[at] = found[here], common[here], scale.evidence(found, places)[here]
            loose[at] = scale.loose - scale.cut
        # A piece that is as similar to `SHARED_BY` different items as to the best one matches what they share, not the one that leaked.
        raw = similarity[:, :, LEXICAL] + (similarity[:, :, DENSE] if dense else 0.0)
        twins = np.where(candidates >= 0, self.twins[np.maximum(candidates, 0)], -1)
        if candidates.shape[1] >= SHARED_BY:
            ranked = np.sort(np.where((candidates >= 0) & ~repeats(twins), raw, 0.0), axis=1)[:, ::-1]
            margin[ranked[:, SHARED_BY - 1] >= 0.9 * ranked[:, 0]] = -50.0
        return _Comparison(similarity, share, margin, loose)

    def _pieces(self, body: bytes, near: Iterable[tuple[int, int, int]], copies_only: bool) -> Iterator[tuple[str, list[int]]]:
        """Yield the windows of a row that are near an item, and their clauses if the item is short, with the candidates of each.

        With `copies_only` those are left out in which `EditedCopies` looks for none: the piece or all of its candidates are short.

        Args:
            body: the row's text.
            near: (item, begin, end) of its candidates, -1 for no item.
            copies_only: see `find`.
        """
        windows: dict[tuple[int, int], list[int]] = {}
        for unit, begin, end in near:
            if unit >= 0:
                windows.setdefault((begin, end), []).append(unit)
        for (begin, end), units in windows.items():
            whole = end - begin > 0.9 * len(body)
            if copies_only and ((len(body) if whole else end - begin) < LONG or not any(self.is_long[unit] for unit in units)):
                continue
            text = (body if whole else body[begin:end]).decode("utf-8", "replace")[:_CHARACTERS]
            if copies_only and len(text) < LONG:
                continue
            yield text, _padded(units)
            short = [unit for unit in units if self.short[unit]]
            if not short or (copies_only and not any(self.is_long[unit] for unit in short)):
                continue
            for clause in segments(text)[1:_CLAUSES]:
                # A single word is no paraphrase.
                if has_two_words(clause) and not (copies_only and len(clause) < LONG):
                    yield clause, _padded(short)


def _padded(units: Sequence[int]) -> list[int]:
    return [*units, *[-1] * (CANDIDATES - len(units))]


def pieces_of(item: str) -> list[str]:
    """Return the pieces in which an item is compared; they overlap by half, so that what one cuts the next holds whole."""
    found = item.split()
    if len(found) <= LONG_ITEM:
        return [item]
    return [" ".join(found[at : at + PIECE]) for at in range(0, len(found) - PIECE // 2, PIECE // 2)]


class Boilerplate:
    """The windows of `ANCHOR` words that at least `SHARED_BY` items hold."""

    def __init__(self, items: Sequence[str], scanner: SpanScanner | None = None) -> None:
        self.scanner = scanner or SpanScanner(items)
        self.holders = np.flatnonzero(self.scanner.flags(readable_rows(items)) & HAS_BOILERPLATE).tolist()
        """The items that hold one of the windows."""
        held = Counter(gram for place in self.holders for gram in set(_windows(words(items[place]))))
        self.windows = {gram for gram, n in held.items() if n >= SHARED_BY}

    def remove(self, text: str) -> str:
        """Return the text without boilerplate; it is normalized if something was removed."""
        if not self.windows:
            return text
        own = normalize(text)
        found = list(WORD.finditer(own))
        shared = np.zeros(len(found), bool)
        for start, gram in enumerate(_windows(tuple(word.group() for word in found))):
            if gram in self.windows:
                shared[start : start + ANCHOR] = True
        # Without its boilerplate the text would be too short to identify anything.
        if not shared.any() or len(found) - shared.sum() < _LEFT:
            return text
        return _without(own, found, shared)

    def remove_from(self, rows: Rows, flags: Array) -> Rows:
        """Return the rows without boilerplate; `flags` are those of the scanner."""
        changed = {}
        for row in np.flatnonzero(flags & HAS_BOILERPLATE).tolist():
            text = text_of(rows, row)
            if (shorter := self.remove(text)) != text:
                changed[row] = shorter
        return with_texts(rows, changed) if changed else rows


def _without(text: str, found: Sequence[re.Match[str]], removed: Array) -> str:
    """Return the text without some of its words, and without the punctuation between them."""
    kept, first = list[str](), None
    for word, is_removed in zip(found, removed.tolist(), strict=True):
        if is_removed and first is not None:
            kept.append(text[first : word.start()])
            first = None
        elif not is_removed and first is None:
            first = word.start()
    if first is not None:
        kept.append(text[first:])
    return re.sub(r"\s+", " ", " ".join(kept)).strip(" .,;:!?")


def _questions(items: Sequence[str], spans: Array) -> Iterator[tuple[int, str]]:
    """Yield what an item has apart from a passage that it shares with another item.

    Args:
        items: the protected texts.
        spans: (n, 4) item, other item, first word, word after the last, of the words that they share.
    """
    passages = spans[spans[:, 3] - spans[:, 2] >= PASSAGE]
    for item in np.unique(passages[:, 0]).tolist():
        own = normalize(items[item])
        found = list(WORD.finditer(own))
        removed = np.zeros(len(found), bool)
        for _, _, start, stop in passages[passages[:, 0] == item].tolist():
            removed[start:stop] = True
        if len(found) - removed.sum() >= _LEFT:
            yield item, _without(own, found, removed)


def _windows(tokens: tuple[str, ...]) -> list[tuple[str, ...]]:
    return [tokens[start : start + ANCHOR] for start in range(len(tokens) - ANCHOR + 1)]
