"""Rows that say a protected item in other words, decided by how alike the suite's own items are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence, Set
from typing import Any, NamedTuple

import numpy as np

from curation.dedup.arrow_text import Rows, text_of
from curation.leakage.boilerplate import Frames, rows_with
from curation.leakage.calibration import Scale, calibrate, numbered, repeats
from curation.leakage.candidates import Candidates, Shortlist
from curation.leakage.edited_copies import Copies
from curation.leakage.features import DENSE, LEXICAL, Encoder, Prepared, Reader, SuiteFeatures
from curation.leakage.ngrams import ANCHOR, FRAMED, SHARED_BY, SpanScanner, has_two_words, readable_rows, words_of
from curation.leakage.reference import segments

Array = np.ndarray[Any, np.dtype[Any]]

LONG_ITEM, PIECE = 250, 160
"""Words from which an item is compared in pieces, and words of a piece: a row may give away a part of a long passage."""
SHORT_ITEM = 12
"""Words up to which an item is also looked for in single clauses: a phrase drowns in the average of a note."""
CANDIDATES = 12
FLOOR = {True: 0.1, False: 0.5}
"""A row is looked at closely when it has more words in common with an item than this quantile of items with their nearest
other one (with embeddings, without): below it nothing was ever found that the close look would have flagged."""

_CLAUSES, _CHARACTERS = 32, 20_000
_BY_SENSE = 4
_BLOCK = 4096


class Reworded(NamedTuple):
    """The item a row is nearest to."""

    item: int
    margin: float
    """Standard deviations beyond the suite's cut."""
    possible: bool
    """Below the cut, but nearer than nine in ten hard negatives would be at a rate of one in a hundred."""
    piece: str
    likeness: tuple[float, ...]
    """Lexical, values, and with an encoder dense and levelled."""
    ratio: float = 0.0
    """Share of letters (0 to 100) in common with an edited copy of a long item; 0 where it is none."""


class Rewording:
    """The protected items of all suites, calibrated suite by suite."""

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
        self.frames = Frames(items, scanner)
        told = [*items]
        for place in self.frames.framed:
            told[place] = self.frames.without(items[place])
        cut = [(owner, piece) for owner, item in enumerate(told) for piece in _pieces_of(item)]
        self.owners, self.texts = np.array([owner for owner, _ in cut]), [piece for _, piece in cut]
        self.reader, self.rate = Reader(encode, known), rate
        self.shortlist, self.copies = Shortlist(self.texts), Copies(self.texts)
        self.twins = numbered([items[owner] for owner in self.owners.tolist()])
        """One number for all units of items with one text: a suite that stands twice is no boilerplate."""
        self.short = np.diff(words_of(readable_rows(self.texts))[1]) <= SHORT_ITEM
        self.place, self.suite = np.zeros(len(cut), np.int64), np.zeros(len(cut), np.int64)
        self.has_values, self.floor = np.zeros(len(cut), np.bool_), np.zeros(len(cut))
        self.suites: list[tuple[str, SuiteFeatures, Scale]] = []
        self._learn([suites[owner] for owner in self.owners.tolist()], _copied(self.frames.scanner, items))

    def _learn(self, of_suite: Sequence[str], copied: Set[tuple[int, int]]) -> None:
        """Calibrate suite by suite; `of_suite` is each unit's."""
        names = np.array(of_suite)
        owned = {name: np.flatnonzero(names == name) for name in dict.fromkeys(of_suite)}
        read = {name: self.reader.learn([self.texts[unit] for unit in own.tolist()]) for name, own in owned.items()}
        for number, (name, own) in enumerate(owned.items()):
            texts = [self.texts[unit] for unit in own.tolist()]
            features = SuiteFeatures(read[name], len(self.reader.numbers))
            scale = calibrate(texts, features, read[name], self.owners[own], copied=copied, rate=self.rate)
            self.suites.append((name, features, scale))
            self.place[own], self.suite[own] = np.arange(len(own)), number
            self.has_values[own] = np.diff(read[name].values.at) > 0
        self._set_floors(owned, read)

    def find(
        self,
        rows: Rows,
        *,
        among: Array | None = None,
        without: Sequence[int] | None = None,
        flags: Array | None = None,
        copies_only: bool = False,
    ) -> dict[int, Reworded]:
        """Every row that comes near an item, with the nearest.

        Args:
            among: the rows to look at; all when not given.
            flags: what the scanner says of each row, where it has been asked.
            copies_only: edited copies are asked for, and no rewordings.
            without: for each row an item that is to be overlooked; so one asks for the hardest other item.
        """
        rows = self._outside_frames(rows, self.frames.scanner.flags(rows) if flags is None else flags)
        near = self.shortlist.find(rows, most=CANDIDATES)
        if without is not None:
            near = near._replace(item=np.where(self.owners[near.item] == np.asarray(without)[:, None], -1, near.item))
        close = (near.score > self.floor[np.maximum(near.item, 0)]) & (near.item >= 0)
        which = np.flatnonzero(close.any(axis=1))
        which = which if among is None else np.intersect1d(which, among)
        found: dict[int, Reworded] = {}
        for start in range(0, len(which), _BLOCK):
            found |= self._look_at(rows, which[start : start + _BLOCK].tolist(), near, without, copies_only)
        return found

    def _look_at(
        self, rows: Rows, which: Sequence[int], near: Candidates, without: Sequence[int] | None, copies_only: bool
    ) -> dict[int, Reworded]:
        pieces = [piece for row in which for piece in self._row_pieces(rows, row, near)]
        owner, texts = np.array([row for row, _, _ in pieces]), [text for _, text, _ in pieces]
        candidates = np.array([units for _, _, units in pieces])
        # With embeddings any item may come near, so every value counts.
        wanted = (self.has_values[candidates] & (candidates >= 0)).any(axis=1) | (self.reader.encode is not None)
        prepared = self.reader.read(texts, has_values=(wanted & (not copies_only)).tolist())
        if prepared.dense is not None:
            by_sense = self._nearest(prepared.dense)
            if without is not None:
                by_sense = np.where(self.owners[by_sense] == np.asarray(without)[owner][:, None], -1, by_sense)
            candidates = np.concatenate([candidates, by_sense], axis=1)
        candidates = np.where(repeats(candidates), -1, candidates)
        likeness, share, margin, loose = self._compare(prepared, candidates)
        copied, ratio = self.copies.find(texts, candidates, likeness[:, :, LEXICAL], share)
        best = margin.argmax(axis=1)
        every = np.arange(len(pieces))
        unit, over = candidates[every, best], margin[every, best]
        possible = over > loose[every, best]
        found: dict[int, Reworded] = {}
        for place in np.lexsort((-every, over, ratio)).tolist():  # of each row the strongest piece comes last and stays
            at = int(best[place])
            if unit[place] >= 0 and (ratio[place] or not copies_only):
                item = self.owners[copied[place] if ratio[place] else unit[place]]
                alike = tuple(likeness[place, at].tolist())
                found[int(owner[place])] = Reworded(
                    int(item), float(over[place]), bool(possible[place]), texts[place], alike, float(ratio[place])
                )
        return found

    def _outside_frames(self, rows: Rows, flags: Array) -> Rows:
        """The rows, those that hold boilerplate without it."""
        shortened = {row: self.frames.without(text_of(rows, row)) for row in np.flatnonzero(flags & FRAMED).tolist()}
        return rows_with(rows, shortened) if shortened else rows

    def _compare(self, prepared: Prepared, candidates: Array) -> tuple[Array, Array, Array, Array]:
        """(likeness, share of n-grams in common, margin over the cut, margin from which a leak is possible), pieces × candidates."""
        dense = prepared.dense is not None
        likeness, share = np.zeros((*candidates.shape, 4 if dense else 2)), np.zeros(candidates.shape)
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
            likeness[at], share[at], margin[at] = found[here], common[here], scale.evidence(found, places)[here]
            loose[at] = scale.loose - scale.cut
        raw = likeness[:, :, LEXICAL] + (likeness[:, :, DENSE] if dense else 0.0)
        twins = np.where(candidates >= 0, self.twins[np.maximum(candidates, 0)], -1)
        margin[_is_boilerplate(np.where((candidates >= 0) & ~repeats(twins), raw, 0.0))] = -50.0
        return likeness, share, margin, loose

    def _row_pieces(self, rows: Rows, row: int, near: Candidates) -> Iterator[tuple[int, str, list[int]]]:
        """The windows of a row that lie near an item, and their clauses where the item is short."""
        body = text_of(rows, row).encode("utf-8", "surrogatepass")
        windows: dict[tuple[int, int], list[int]] = {}
        for unit, begin, end in zip(near.item[row].tolist(), near.begin[row].tolist(), near.end[row].tolist(), strict=True):
            if unit >= 0:
                windows.setdefault((begin, end), []).append(unit)
        for (begin, end), units in windows.items():
            whole = end - begin > 0.9 * len(body)
            text = (body if whole else body[begin:end]).decode("utf-8", "replace")[:_CHARACTERS]
            yield row, text, _padded(units)
            short = [unit for unit in units if self.short[unit]]
            for clause in segments(text)[1:_CLAUSES] if short else ():
                if has_two_words(clause):  # one word is no rewording
                    yield row, clause, _padded(short)

    def _nearest(self, dense: Array) -> Array:
        """Of each suite the items nearest by embedding."""
        found = []
        for number, (_, features, _) in enumerate(self.suites):
            units = np.flatnonzero(self.suite == number)
            found.append(units[features.nearest(dense, _BY_SENSE)])
        return np.concatenate(found, axis=1)

    def _set_floors(self, owned: Mapping[str, Array], read: Mapping[str, Prepared]) -> None:
        """Set for each unit the words in common from which a row is looked at, and the letters in common that make a copy."""
        near = self.shortlist.find(readable_rows(self.texts), most=CANDIDATES)
        other = (near.item >= 0) & (self.twins[np.maximum(near.item, 0)] != self.twins[:, None])
        scores = np.where(other, near.score, 0.0)
        nearest, at = scores.max(axis=1), scores.argmax(axis=1)
        fellow = np.where(nearest > 0, near.item[np.arange(len(at)), at], -1)
        for name, own in owned.items():
            self.floor[own] = min(float(np.quantile(nearest[own], FLOOR[self.reader.encode is not None])), 0.35)
            share = self._compare(read[name], fellow[own][:, None])[1]
            self.copies.calibrate(own, fellow[own], share[:, 0], rate=self.rate)


def _pieces_of(item: str) -> list[str]:
    found = item.split()
    if len(found) <= LONG_ITEM:
        return [item]
    return [" ".join(found[start : start + PIECE]) for start in range(0, len(found) - PIECE // 2, PIECE // 2)]


def _copied(scanner: SpanScanner, items: Sequence[str]) -> set[tuple[int, int]]:
    """Pairs of items that share a span word for word."""
    rows = readable_rows(items)
    found = scanner.table(rows, scanner.flags(rows))
    row, item, start, stop = found.T
    return set(map(tuple, found[(stop - start >= ANCHOR) & (row != item), :2].tolist()))


def _padded(units: Sequence[int]) -> list[int]:
    return [*units, *[-1] * (CANDIDATES - len(units))]


def _is_boilerplate(raw: Array) -> Array:
    """Pieces as like to several items as to the best one: a frame they share, not the one item that leaked."""
    if raw.shape[1] < SHARED_BY:
        return np.zeros(len(raw), dtype=bool)
    best = np.sort(raw, axis=1)[:, ::-1]
    return np.asarray(best[:, SHARED_BY - 1] >= 0.9 * best[:, 0])
