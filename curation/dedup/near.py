"""Near duplicates: texts that share most of their character shingles, and short texts a few edits apart."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Sequence
from functools import lru_cache

import numpy as np
import pyarrow as pa

from curation.dedup.keep import Drop, copies, drop_table, equal_groups, keeping_order
from curation.dedup.sketch import band_keys, bands_for, jaccard, shingle_hashes, sketches
from curation.dedup.text import checked_length, normalize, strings

SHORT = 240
"""Code points up to which a text is also compared by edits: one edit takes `shingle` shingles with it, which a long text
bears and a short phrase does not."""


def find_near(
    texts: Sequence[str] | pa.Array,
    *,
    threshold: float = 0.7,
    shingle: int = 5,
    edits: float | None = 0.85,
    labels: Sequence[str | None] | None = None,
    rank: Sequence[int] | None = None,
    bands: tuple[int, int] | None = None,
) -> pa.Table:
    """Pair texts whose character shingles overlap.

    Candidates from MinHash are verified, so `similarity` is the true Jaccard; texts whose labels differ are never paired.

    Args:
        threshold: Jaccard similarity from which a row is a twin.
        shingle: code points in a shingle (not bytes, not words).
        edits: short texts that carry the *same label* are twins also from this normalized Levenshtein similarity on.
            Unlabelled texts never are: "capital of Iran" and "capital of Iraq" are two questions. None turns it off.
            At 0.85, nine in ten phrases with one or two edits are found, and one in forty other official terms of the
            same ICD-10-CM code besides those that Jaccard pairs already.
        labels: the class of each row.
        rank: lower is kept; ties by position.
        bands: (bands, rows) of the LSH, when the ones chosen for recall are not wanted.

    Returns one line per dropped row: row, kept, twin, similarity, cluster, measure ("exact", "jaccard" or "levenshtein").
    """
    values = [normalize(text) for text in strings(texts)]
    checked_length(labels, len(values), "labels")
    checked_length(rank, len(values), "rank")
    kinds = list(labels) if labels is not None else [None] * len(values)
    groups = equal_groups(list(zip(values, kinds, strict=True)), keeping_order(len(values), rank))
    firsts = [group[0] for group in groups if values[group[0]]]
    found = bands or bands_for(threshold)
    indexes: list[_Overlap | _Edits] = [_Overlap(values, kinds, firsts, threshold=threshold, shingle=shingle, bands=found)]
    if edits is not None and labels is not None:
        indexes.append(_Edits(values, kinds, edits))
    decided, links = _keep_best(firsts, indexes)
    return drop_table(copies(groups, decided), links)


def _keep_best(firsts: Sequence[int], indexes: Sequence[_Overlap | _Edits]) -> tuple[dict[int, Drop], list[tuple[int, int]]]:
    """Walk the rows best first; each is kept, or points at the most similar row kept before it."""
    decided: dict[int, Drop] = {}
    links = []
    for row in firsts:
        twins, measure = next(((twins, index.measure) for index in indexes if (twins := index.twins(row))), ([], ""))
        if not twins:
            for index in indexes:
                index.keep(row)
            continue
        similarity, kept = max(twins, key=lambda twin: twin[0])
        decided[row] = Drop(row, kept, similarity, measure)
        links += [(row, other) for _, other in twins]
    return decided, links


class _Overlap:
    """The kept rows by the band keys of their sketches; twins are verified by their true Jaccard."""

    measure = "jaccard"

    def __init__(
        self,
        texts: Sequence[str],
        labels: Sequence[Hashable],
        rows: Sequence[int],
        *,
        threshold: float,
        shingle: int,
        bands: tuple[int, int],
    ) -> None:
        self.labels, self.threshold = labels, threshold
        self.keys = dict(zip(rows, _shared_keys([texts[row] for row in rows], shingle, bands), strict=True))
        self.kept: defaultdict[tuple[int, Hashable], list[int]] = defaultdict(list)
        self.shingles = lru_cache(maxsize=8192)(lambda row: shingle_hashes(texts[row], shingle))

    def twins(self, row: int) -> list[tuple[float, int]]:
        label = self.labels[row]
        rivals = dict.fromkeys(other for key in self.keys[row] for other in self.kept.get((key, label), ()))
        if not rivals:
            return []
        own = self.shingles(row)
        scored = ((jaccard(own, self.shingles(other)), other) for other in rivals)
        return [(similarity, other) for similarity, other in scored if similarity >= self.threshold]

    def keep(self, row: int) -> None:
        for key in self.keys[row]:
            self.kept[key, self.labels[row]].append(row)


class _Edits:
    """The kept short rows of each label; twins by normalized Levenshtein similarity. Exact: no candidate is skipped."""

    measure = "levenshtein"

    def __init__(self, texts: Sequence[str], labels: Sequence[Hashable], threshold: float) -> None:
        self.texts, self.labels, self.threshold = texts, labels, threshold
        self.kept: defaultdict[Hashable, list[int]] = defaultdict(list)

    def twins(self, row: int) -> list[tuple[float, int]]:
        from rapidfuzz.distance import Levenshtein
        from rapidfuzz.process import cdist

        rivals = self.kept[self.labels[row]] if self._compares(row) else []
        if not rivals:
            return []
        scores = cdist(
            [self.texts[row]],
            [self.texts[other] for other in rivals],
            scorer=Levenshtein.normalized_similarity,
            score_cutoff=self.threshold,
            dtype=np.float64,
        )[0]
        return [(float(scores[place]), rivals[place]) for place in np.flatnonzero(scores >= self.threshold)]

    def keep(self, row: int) -> None:
        if self._compares(row):
            self.kept[self.labels[row]].append(row)

    def _compares(self, row: int) -> bool:
        return self.labels[row] is not None and len(self.texts[row]) <= SHORT


def _shared_keys(texts: Sequence[str], shingle: int, bands: tuple[int, int]) -> list[list[int]]:
    """The band keys of each text that at least one other text has too; most texts have none and cost nothing more."""
    if not texts:
        return []
    count, width = bands
    keys = band_keys(sketches(texts, shingle=shingle, permutations=count * width), count, width)
    _, inverse, counts = np.unique(keys, return_inverse=True, return_counts=True)
    shared = (counts > 1)[inverse].reshape(keys.shape)
    return [row[mask].tolist() for row, mask in zip(keys, shared, strict=True)]
