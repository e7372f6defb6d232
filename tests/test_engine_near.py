"""Near spellings and near words against their definitions."""

from __future__ import annotations

from itertools import product

from hypothesis import given
from hypothesis import strategies as st

from argilla_setup.engine.near import GAP, are_near, edit_distances, find_places, is_near


@given(word=st.text("abc", min_size=1, max_size=6), terms=st.lists(st.text("abc", min_size=4, max_size=4), min_size=1, max_size=4))
def test_edit_distance_is_levenshtein(word: str, terms: list[str]) -> None:
    def naive(x: str, y: str) -> int:
        if not x or not y:
            return len(x) + len(y)
        return min(naive(x[1:], y) + 1, naive(x, y[1:]) + 1, naive(x[1:], y[1:]) + (x[0] != y[0]))

    assert edit_distances(word, terms).tolist() == [naive(word, term) for term in terms]


@given(terms=st.lists(st.sampled_from("ab"), min_size=1, max_size=3), text=st.text("abc", max_size=7), slop=st.integers(0, 5))
def test_near_words_need_places_of_their_own(terms: list[str], text: str, slop: int) -> None:
    places = {term: [at for at, other in enumerate(text) if other == term] for term in terms}
    ways = [way for way in product(*(places[term] for term in terms)) if len(set(way)) == len(way)]
    spreads = [max(shifted) - min(shifted) for way in ways if (shifted := [at - n for n, at in enumerate(way)])]
    assert is_near(terms, places, slop=slop) == any(spread <= slop for spread in spreads)


@given(
    texts=st.lists(st.lists(st.sampled_from(["a", "b", "ab", "\u6771", "\u4eac", "", GAP]), max_size=9), min_size=1, max_size=6),
    terms=st.lists(st.sampled_from(["a", "b", "ab", "\u6771"]), min_size=1, max_size=4),
    slop=st.one_of(st.integers(0, 8), st.sampled_from([98, 99, 100, 101, 2**31 - 1])),
)
def test_many_texts_at_once_are_as_near_as_each_alone(texts: list[list[str]], terms: list[str], slop: int) -> None:
    stored = [" ".join(text) for text in texts]
    alone = [is_near(terms, find_places(text, terms), slop=slop) for text in stored]
    assert are_near("\n".join(stored), terms, slop=slop).tolist() == alone
