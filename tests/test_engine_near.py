"""Near spellings and near words against their definitions."""

from __future__ import annotations

import os
import random
from itertools import product

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from argilla_setup.engine.documents import RecordDoc
from argilla_setup.engine.index import Index
from argilla_setup.engine.near import GAP, are_near, edit_distances, find_places, is_near
from argilla_setup.engine.search import Question, search

FUZZ = 20_000 if os.environ.get("SEEDCORN_SOAK") else 150


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


@pytest.fixture(scope="module")
def talks(tmp_path_factory: pytest.TempPathFactory) -> tuple[Index, dict[str, list[str]]]:
    draw = random.Random(1)
    texts = {
        str(n): [" ".join(draw.choices("abcdefg", k=draw.randint(0, 9))) for _ in range(draw.choice([1, 1, 2, 3]))] for n in range(300)
    }
    made = Index(tmp_path_factory.mktemp("near") / "search.db")
    made.create_dataset("d", fields=["prompt", "talk", "talk.role"], questions={})
    made.put_records("d", [RecordDoc(n, {"prompt": text[0], "talk": text, "talk.role": ["a b"]}) for n, text in texts.items()])
    return made, texts


@given(
    terms=st.lists(st.sampled_from("abcdefg"), min_size=2, max_size=4),
    slop=st.one_of(st.integers(1, 9), st.sampled_from([99, 101, 2**31 - 1])),
)
@settings(max_examples=FUZZ, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_index_finds_near_words_where_they_are_near(talks: tuple[Index, dict[str, list[str]]], terms: list[str], slop: int) -> None:
    made, texts = talks
    for field in ("prompt", "talk"):
        page = search(made, "d", question=Question(f'"{" ".join(terms)}"~{slop}', field=field), limit=1000)
        stored = {n: f" {GAP} ".join(text if field == "talk" else text[:1]) for n, text in texts.items()}
        role = {*texts} if field == "talk" and terms == ["a", "b"] else set()
        near = {n for n, text in stored.items() if is_near(terms, find_places(text, terms), slop=slop)}
        assert {hit.record for hit in page.hits} == near | role and page.total == len(near | role)
