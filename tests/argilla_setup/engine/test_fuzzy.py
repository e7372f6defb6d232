"""Near spellings and near words against their definitions."""

from __future__ import annotations

import os
import random
from itertools import product

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from argilla_setup.engine.documents import RecordDoc
from argilla_setup.engine.fulltext import GAP, GAP_POSITIONS, are_near, edit_distances
from argilla_setup.engine.index import Index
from argilla_setup.engine.search import Query, search

FUZZ = 20_000 if os.environ.get("SEEDCORN_SOAK") else 150


@given(word=st.text("abc", min_size=1, max_size=6), terms=st.lists(st.text("abc", min_size=4, max_size=4), min_size=1, max_size=4))
def test_edit_distance_is_levenshtein(word: str, terms: list[str]) -> None:
    def naive(x: str, y: str) -> int:
        if not x or not y:
            return len(x) + len(y)
        return min(naive(x[1:], y) + 1, naive(x, y[1:]) + 1, naive(x[1:], y[1:]) + (x[0] != y[0]))

    assert edit_distances(word, terms).tolist() == [naive(word, term) for term in terms]


def is_near(text: list[str], terms: list[str], slop: int) -> bool:
    """By trying all ways: every term at a place of its own, the places less the terms' numbers within the slop."""
    places = [at + (GAP_POSITIONS - 1) * text[:at].count(GAP) for at in range(len(text))]
    ways = product(*([place for place, other in zip(places, text, strict=True) if other == term] for term in terms))
    shifted = ([place - n for n, place in enumerate(way)] for way in ways if len(set(way)) == len(way))
    return any(max(numbers) - min(numbers) <= slop for numbers in shifted)


SLOPS = st.one_of(st.integers(0, 8), st.sampled_from([98, 99, 100, 101, 2**31 - 1]))


@given(
    texts=st.lists(st.lists(st.sampled_from(["a", "a", "b", "ab", "\u6771", "\u4eac", "", GAP]), max_size=9), min_size=1, max_size=6),
    terms=st.lists(st.sampled_from(["a", "b", "ab", "\u6771"]), min_size=1, max_size=4),
    slop=SLOPS,
)
@settings(max_examples=FUZZ, deadline=None)
def test_near_words_need_places_of_their_own(texts: list[list[str]], terms: list[str], slop: int) -> None:
    # A text without a term is an empty line.
    stored = "\n".join(" ".join(text) for text in texts)
    assert are_near(stored, terms, slop=slop).tolist() == [is_near(text, terms, slop) for text in texts]


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
    slop=SLOPS.filter(bool),
)
@settings(max_examples=FUZZ, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_index_finds_near_words_where_they_are_near(talks: tuple[Index, dict[str, list[str]]], terms: list[str], slop: int) -> None:
    made, texts = talks
    for field in ("prompt", "talk"):
        page = search(made, "d", query=Query(f'"{" ".join(terms)}"~{slop}', field=field), limit=1000)
        stored = {n: f" {GAP} ".join(text if field == "talk" else text[:1]).split(" ") for n, text in texts.items()}
        role = {*texts} if field == "talk" and terms == ["a", "b"] else set()
        near = {n for n, text in stored.items() if is_near(text, terms, slop)}
        assert {hit.record for hit in page.hits} == near | role and page.total == len(near | role)
