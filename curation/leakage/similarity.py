"""How much a piece of a row resembles each protected item: character n-grams, and embeddings where they can matter."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from curation.dedup.text import normalize

Array = np.ndarray[Any, np.dtype[Any]]
Encoder = Callable[[Sequence[str]], Array]
"""Texts to L2-normalized rows, as `functools.partial(embed, model=...)` gives."""

_HEADING = re.compile(r"(?:^|(?<=[.;!?\n]))\s*(?:[^\W\d]+[ /-]?){1,3}:\s")
_COLON = re.compile(r":\s")
"""What a heading ends in; most texts have none, and this is quicker to see."""
_CLAUSE = re.compile(r"[.;:!?]+\s|[\n。！？；：]+")
_SHORTLIST_SIMILARITY, _SHORTLIST_MARGIN = 0.15, -0.4


def segments(text: str) -> list[str]:
    """The whole text, then its sentences and clauses: a short phrase drowns in the average of a long note.

    Headings ("Impression:", "Clinic note:") are left out: they stand in many rows and say nothing of any.
    """
    body = _HEADING.sub("\n", text) if _COLON.search(text) else text
    parts = (part.strip(" .") for part in _CLAUSE.split(body))
    return list(dict.fromkeys([text, *(part for part in parts if len(part.split()) > 1 or len(part) > 3)]))


class Resemblance:
    """Similarity of texts to the protected items and to the texts that may be trained on.

    Lexical is the cosine of character 3- to 5-grams weighted by how rare they are among items and allowed texts. Dense
    is the cosine of embeddings; it is asked for only where the lexical one leaves a doubt, which on short clinical
    phrases changed no decision and saved more than half of the embedding.
    """

    def __init__(self, items: Sequence[str], allowed: Sequence[str], *, encode: Encoder | None, known: Mapping[str, Array]) -> None:
        self.encode, self.known = encode, dict(known)
        self.lexicon = _Lexicon([*items, *allowed])
        self.items, self.allowed = self.lexicon.vectors(items), self.lexicon.vectors(allowed)
        self.dense = encode is not None
        if self.dense:
            self._learn([*items, *allowed])
            self.item_vectors, self.allowed_vectors = self._vectors(items), self._vectors(allowed)

    def compare(self, texts: Sequence[str]) -> tuple[Array, Array]:
        """Similarity to each item (texts × items) and to the nearest allowed text (texts); -1 where there is none."""
        own = self.lexicon.vectors(texts)
        to_items, to_allowed = _dot(own, self.items), _dot(own, self.allowed)
        nearest = to_allowed.max(axis=1, initial=-1.0)
        if not self.dense:
            return to_items, nearest
        best = to_items.max(axis=1, initial=0.0)
        asked = np.flatnonzero((best >= _SHORTLIST_SIMILARITY) & (best - np.maximum(nearest, 0.0) >= _SHORTLIST_MARGIN)).tolist()
        self._learn([texts[place] for place in asked])
        if len(asked):
            vectors = self._vectors([texts[place] for place in asked])
            to_items[asked] += vectors @ self.item_vectors.T
            if self.allowed.shape[0]:
                nearest[asked] = (to_allowed[asked] + vectors @ self.allowed_vectors.T).max(axis=1)
        return to_items, nearest

    def nearest_allowed(self, text: str) -> int:
        """The allowed text most like this one, for the evidence."""
        scores = _dot(self.lexicon.vectors([text]), self.allowed)[0]
        if self.dense and text in self.known:
            scores = scores + self.known[text] @ self.allowed_vectors.T
        return int(scores.argmax())

    def _learn(self, texts: Sequence[str]) -> None:
        new = list(dict.fromkeys(text for text in texts if text not in self.known))
        if new and self.encode:
            self.known.update(zip(new, self.encode(new), strict=True))

    def _vectors(self, texts: Sequence[str]) -> Array:
        return np.stack([self.known[text] for text in texts]) if len(texts) else np.empty((0, 0), dtype=np.float32)


class _Lexicon:
    """Weights of character n-grams learnt from the reference texts only, so a row's score does not depend on other rows."""

    def __init__(self, texts: Sequence[str]) -> None:
        from sklearn.feature_extraction.text import HashingVectorizer

        self.hashing = HashingVectorizer(analyzer="char_wb", ngram_range=(3, 5), n_features=2**20, alternate_sign=False, norm=None)
        counts = self.hashing.transform(map(normalize, texts)).getnnz(axis=0) if len(texts) else np.zeros(2**20)
        self.weights = np.log((1 + len(texts)) / (1 + counts)) + 1
        # What no reference text holds ("Patient presents with ...") says nothing of which item is meant.
        self.weights[counts == 0] = self.weights[counts > 0].min(initial=1 + np.log(1 + len(texts)))

    def vectors(self, texts: Sequence[str]) -> Any:
        from scipy.sparse import csr_matrix
        from sklearn.preprocessing import normalize as unit

        if not len(texts):
            return csr_matrix((0, 2**20))
        counts = self.hashing.transform(map(normalize, texts))
        counts.data = (1 + np.log(counts.data)) * self.weights[counts.indices]
        return unit(counts)


def _dot(a: Any, b: Any) -> Array:
    return np.asarray((a @ b.T).toarray())
