"""The search box's language: trees are written out as queries, and the engine must find what a naive reading of the tree finds."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from argilla_setup.engine.documents import RecordDoc
from argilla_setup.engine.index import Index
from argilla_setup.engine.query import MAX_LEAVES, And, Leaf, MatchAll, Not, Or, parse_query, positive_leaves
from argilla_setup.engine.search import Query, search

FUZZ = 20_000 if os.environ.get("SEEDCORN_SOAK") else 400
WORDS = ("ada", "bee", "cat", "catalog", "dog", "E11.65")
TEXTS = (
    "ada bee",
    "bee ada",
    "cat",
    "catalog dog",
    "Ada, cat. DOG!",
    "dog bee cat ada",
    "",
    "code E11.65 dog",
    "e11 dog 65",
    "dog dog dog bee",
)


@dataclass(frozen=True)
class Tree:
    """A query whose meaning is not in doubt: every group is in parentheses."""

    kind: str
    children: tuple[Tree, ...] = ()
    text: str = ""

    def written(self) -> str:
        if self.kind == "word":
            return self.text
        if self.kind == "phrase":
            return f'"{self.text}"'
        if self.kind == "not":
            return f"-({self.children[0].written()})"
        return "(" + {"and": " ", "or": " | "}[self.kind].join(f"({c.written()})" for c in self.children) + ")"

    def holds(self, text: str) -> bool:
        terms = naive_terms(text)
        if self.kind == "word" and self.text.endswith("*"):
            return any(term.startswith(self.text[:-1].lower()) for term in terms)
        if self.kind in ("word", "phrase"):
            wanted = naive_terms(self.text)
            return any(terms[n : n + len(wanted)] == wanted for n in range(len(terms) - len(wanted) + 1))
        parts = [child.holds(text) for child in self.children]
        return {"not": not parts[0], "and": all(parts), "or": any(parts)}[self.kind]


def naive_terms(text: str) -> list[str]:
    return [term for word in text.lower().split() if (term := word.strip(",.!"))]


LEAVES = st.one_of(
    st.sampled_from(WORDS).map(lambda w: Tree("word", text=w)),
    st.sampled_from(("ca*", "d*", "catalog*", "x*")).map(lambda w: Tree("word", text=w)),
    st.lists(st.sampled_from(WORDS), min_size=2, max_size=3).map(lambda ws: Tree("phrase", text=" ".join(ws))),
)
TREES = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        inner.map(lambda t: Tree("not", (t,))),
        st.lists(inner, min_size=2, max_size=3).map(lambda ts: Tree("and", tuple(ts))),
        st.lists(inner, min_size=2, max_size=3).map(lambda ts: Tree("or", tuple(ts))),
    ),
    max_leaves=8,
)


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Index:
    made = make_index(tmp_path_factory.mktemp("query"))
    made.put_records("d", [RecordDoc(id=str(n), fields={"prompt": text, "completion": ""}) for n, text in enumerate(TEXTS)])
    return made


def make_index(folder: Path) -> Index:
    made = Index(folder / "search.db")
    made.create_dataset("d", fields=["prompt", "completion"], questions={})
    return made


def find(index: Index, text: str, *, field: str | None = None) -> set[str]:
    page = search(index, "d", query=Query(text=text, field=field), limit=1000)
    found = {hit.record for hit in page.hits}
    assert len(found) == len(page.hits) == page.total
    return found


@given(tree=TREES)
@settings(max_examples=FUZZ, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_query_finds_what_its_tree_means(index: Index, tree: Tree) -> None:
    assert find(index, tree.written()) == {str(n) for n, text in enumerate(TEXTS) if tree.holds(text)}


@given(text=st.one_of(st.text(max_size=60), st.text(alphabet='ab +|-"()*~\\3é東', max_size=60)))
@settings(max_examples=FUZZ, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_nothing_a_person_types_is_an_error(index: Index, text: str) -> None:
    find(index, text)
    find(index, text, field="prompt")


A, B, C = Leaf("a"), Leaf("b"), Leaf("c")


@pytest.mark.parametrize(
    ("query", "tree"),
    [
        ("a b", And((A, B))),
        ("a | b c", And((Or((A, B)), C))),  # from left to right, as Elasticsearch reads it
        ("a b | c", Or((And((A, B)), C))),
        ("a | (b c)", Or((A, And((B, C))))),
        ("a | -b", Or((A, Not(B)))),
        ("a-b", Leaf("a-b")),
        ("a\\*", Leaf("a*")),
        ("a*", Leaf("a", "prefix")),
        ('"a b"~2', Leaf("a b", "phrase", 2)),
        ('"a b"~2| c', And((Leaf("a b", "phrase", 2), C))),  # what follows the number is passed over with it
        ("word~1", Leaf("word", "spelling", 1)),
        ("word~9", Leaf("word", "spelling", 2)),
        ("word~", Leaf("word", "spelling", 2)),
        ("word~x", Leaf("word")),
        ('a "b', And((A, B))),
        ("(a", A),
        ("a)", A),
        ("-a", Not(A)),
        ("- a", A),  # a minus sign belongs to what follows at once
        ("--a", A),
        ("| a", A),
        ('a | "" b', And((A, B))),
        (" * ", MatchAll()),
        ("?!", None),
        ("", None),
    ],
)
def test_the_tree_of(query: str, tree: object) -> None:
    assert parse_query(query) == tree


def test_a_query_without_a_term_matches_nothing(index: Index) -> None:
    assert find(index, "...") == set()


def test_a_field_excludes_matches_in_the_others(tmp_path: Path) -> None:
    made = make_index(tmp_path)
    made.put_records("d", [RecordDoc("1", {"prompt": "cat", "completion": "dog"}), RecordDoc("2", {"prompt": "dog", "completion": "cat"})])
    assert find(made, "cat dog") == {"1", "2"}
    assert find(made, "cat", field="prompt") == {"1"}
    assert find(made, "cat", field="nowhere") == set()


def test_near_spellings_and_near_words(index: Index) -> None:
    assert find(index, "cst") == set()
    assert find(index, "cst~1") == {"2", "4", "5"}
    assert find(index, "E11") == {"8"} and find(index, "E11*") == {"7", "8"}
    assert find(index, "catalgo~1") == set()
    assert find(index, "catalgo~2") == {"3"}
    assert find(index, '"code dog"') == set()
    assert find(index, '"code dog"~1') == {"7"}
    assert find(index, '"dog code"~2') == set()
    assert find(index, '"dog code"~3') == {"7"}


@pytest.mark.parametrize(
    ("text", "query", "found"),
    [
        ("東京都の天気", "東京", True),
        ("東京都の天気", "京東", True),  # each character is a word, and words may stand anywhere
        ("東京都の天気", '"京東"', False),
        ("今日はカフェ", "カフェ", True),
        ("今日はカフェ", "フェ", False),
        ("हिन्दी भाषा", "हिन्दी", True),
        ("ภาษาไทยง่าย", "ไทย", False),  # a run of Thai is one word, as in Elasticsearch
        ("ภาษาไทยง่าย", "ภาษา*", True),
        ("한국어 검색", "한국어", True),
        ("STRASSE", "straße", False),
        ("STRAßE", "straße", True),
        ("naïve café", "café", True),
        ("naïve café", "cafe", False),
        ("ﬁnding", "finding", False),
        ("great 👍 work", "👍", True),
        ("snake_case here", "snake_case", True),
        ("snake_case here", "snake", False),
    ],
)
def test_scripts_beyond_ascii(tmp_path: Path, text: str, query: str, found: bool) -> None:
    made = make_index(tmp_path)
    made.put_records("d", [RecordDoc("1", {"prompt": text})])
    assert (find(made, query) == {"1"}) is found


def test_more_words_than_it_looks_at(index: Index) -> None:
    node = parse_query(" ".join(["dog"] * (MAX_LEAVES + 50)))
    assert node is not None and len(positive_leaves(node)) == MAX_LEAVES
    assert find(index, " ".join(["dog"] * 5000)) == find(index, "dog")
    assert find(index, "(" * 3000 + "dog" + ")" * 3000) in (set(), find(index, "dog"))


@pytest.mark.parametrize("more", [" | bee cat", " | -bee cat", " | (bee -(cat -(dog)))", " -(ada | -(bee)) | dog"])
def test_a_long_query_is_no_deeper_than_a_short_one(index: Index, more: str) -> None:
    assert find(index, "ada" + more * 300) == find(index, "ada" + more * 2)
    assert find(index, "(" * 90 + "ada" + more * 300 + ")" * 90) == find(index, "ada" + more * 2)


def test_relevance_puts_the_record_with_more_of_the_word_first(index: Index) -> None:
    page = search(index, "d", query=Query(text="dog"))
    assert page.hits[0].record == "9"
    scores = [hit.score or 0 for hit in page.hits]
    assert scores == sorted(scores, reverse=True)


def test_a_conversation_is_searched_by_its_words_and_its_roles(tmp_path: Path) -> None:
    made = Index(tmp_path / "search.db")
    made.create_dataset("d", fields=["talk", "talk.role"], questions={})
    made.put_records("d", [RecordDoc("1", {"talk": ["my knee", "hurts a lot"], "talk.role": ["user", "assistant"]})])
    assert find(made, "knee hurts", field="talk") == {"1"}
    assert find(made, '"knee hurts"') == set()
    assert find(made, '"knee hurts"~99') == set() and find(made, '"knee hurts"~100') == {"1"}
    assert find(made, "assist*") == find(made, "assistent~1") == find(made, "user") == {"1"}
    assert find(made, "User") == set()
    # Where a keyword is searched too, Elasticsearch looks for signs as they stand instead of passing them over.
    assert find(made, "knee ?!") == set()


def test_a_spelling_whose_last_record_has_gone_takes_nobodys_place(tmp_path: Path) -> None:
    made = make_index(tmp_path)
    made.put_records("d", [RecordDoc(str(n), {"prompt": f"cat{n}"}) for n in range(10)])
    made.put_records("d", [RecordDoc("x", {"prompt": "catx"})])
    assert "x" not in find(made, "cat~1")
    made.delete_records("d", [str(n) for n in range(5)])
    assert find(made, "cat~1") == {"5", "6", "7", "8", "9", "x"}
