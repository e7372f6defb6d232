"""The index against a naive reading of the same records: filters, sorts, totals, pages, similarity, counts, persistence."""

from __future__ import annotations

import os
import random
import sqlite3
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from argilla_setup.engine.documents import RecordDoc, ResponseDoc, SuggestionDoc
from argilla_setup.engine.index import Index
from argilla_setup.engine.schema import VERSION
from argilla_setup.engine.search import (
    Question,
    count_responses,
    count_statuses,
    count_terms,
    find_extent,
    search,
    search_similar,
)
from argilla_setup.engine.where import All, Filter, Range, Scope, Sort, Terms

QUESTIONS = {"verdict": "label_selection", "reasons": "multi_label_selection", "stars": "rating", "comment": "text"}
USERS = ("u1", "u2", "u3")


def make_docs(count: int, *, seed: int) -> list[RecordDoc]:
    """Records that differ in everything a filter can look at, with gaps."""
    draw = random.Random(seed)

    def response(record: int, user: str) -> ResponseDoc:
        values: dict[str, Any] = {"verdict": draw.choice(["approve", "reject"]), "stars": draw.randint(1, 5), "comment": "free"}
        values["reasons"] = draw.sample(["wrong", "unclear", "unsafe"], draw.randint(0, 3))
        status = draw.choice(["submitted", "draft", "discarded"])
        return ResponseDoc(f"{record}-{user}", user, status, values if status != "discarded" else {})

    return [
        RecordDoc(
            id=f"r{n}",
            fields={"prompt": draw.choice(["asthma", "diabetes", "fracture"]), "completion": draw.choice(["yes", "no"])},
            status=draw.choice(["pending", "completed"]),
            external_id=f"x{n}",
            inserted_at=(1_700_000_000 + n) * 1_000_000,
            updated_at=(1_700_000_000 + draw.randint(0, 5)) * 1_000_000,
            metadata={
                **({"score": round(draw.uniform(0, 10), 1)} if draw.random() < 0.8 else {}),
                **({"topic": draw.choice(["a", "b", ["a", "c"]])} if draw.random() < 0.8 else {}),
                "level": draw.randint(1, 3),
            },
            suggestions=[SuggestionDoc("verdict", draw.choice(["approve", "reject"]), score=draw.random(), agent=draw.choice(["m1", "m2"]))]
            if draw.random() < 0.7
            else [],
            responses=[response(n, user) for user in USERS if draw.random() < 0.5],
            vectors={"v": [draw.gauss(0, 1) for _ in range(4)]} if draw.random() < 0.9 else {},
        )
        for n in range(count)
    ]


DOCS = make_docs(80, seed=7)


def fill(path: Path, docs: Sequence[RecordDoc] = DOCS) -> Index:
    index = Index(path)
    index.create_dataset("d", fields=["prompt", "completion"], questions=QUESTIONS)
    index.put_records("d", docs)
    return index


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Index:
    made = fill(tmp_path_factory.mktemp("index") / "search.db")
    # A second dataset with the same names, whose rows must never show.
    made.create_dataset("other", fields=["prompt"], questions=QUESTIONS)
    made.put_records(
        "other", [RecordDoc(f"o{n}", {"prompt": "asthma"}, metadata={"score": 5.0}, vectors={"v": [1, 0, 0, 0]}) for n in range(5)]
    )
    return made


def as_list(value: Any) -> list[Any]:
    return [] if value is None else list(value) if isinstance(value, list) else [value]


def values_of(doc: RecordDoc, scope: Scope) -> list[Any]:
    """All that a scope sees in a record, except a response's."""
    if scope.entity == "record":
        return as_list(getattr(doc, str(scope.name)))
    if scope.entity == "metadata":
        return as_list(doc.metadata.get(str(scope.name)))
    found = [s for s in doc.suggestions if s.question == scope.name]
    return [value for s in found for value in as_list(getattr(s, scope.property))]


def matches(value: Any, condition: Terms | Range) -> bool:
    if isinstance(condition, Terms):
        return str(value) in condition.values or (
            not isinstance(value, str) and any(float(v) == value for v in condition.values if v.isdigit())
        )
    if isinstance(value, str):
        return False
    return (condition.ge is None or value >= condition.ge) and (condition.le is None or value <= condition.le)


def holds(doc: RecordDoc, condition: Filter) -> bool:
    if isinstance(condition, All):
        return all(holds(doc, part) for part in condition.filters)
    scope = condition.scope
    if scope.entity != "response":
        return any(matches(value, condition) for value in values_of(doc, scope))
    mine = [r for r in doc.responses if scope.user in (None, r.user)]
    if scope.name is None:
        assert isinstance(condition, Terms)
        return any(r.status in condition.values for r in mine) or ("pending" in condition.values and not mine)
    return any(matches(value, condition) for r in mine for value in as_list(r.values.get(scope.name)))


SCOPED_USERS = st.sampled_from([None, *USERS, "nobody"])
FILTERS = st.one_of(
    st.builds(lambda v: Terms(Scope("record", "status"), tuple(v)), st.lists(st.sampled_from(["pending", "completed"]), min_size=1)),
    st.builds(lambda v: Terms(Scope("metadata", "topic"), tuple(v)), st.lists(st.sampled_from(["a", "b", "c", "z"]), min_size=1)),
    st.builds(lambda v: Terms(Scope("metadata", "level"), tuple(v)), st.lists(st.sampled_from(["1", "2", "9"]), min_size=1)),
    st.builds(lambda a, b: Range(Scope("metadata", "score"), a, b), st.none() | st.floats(0, 10), st.none() | st.floats(0, 10)),
    st.builds(lambda v: Terms(Scope("suggestion", "verdict", "value"), (v,)), st.sampled_from(["approve", "reject", "none"])),
    st.builds(lambda v: Terms(Scope("suggestion", "verdict", "agent"), (v,)), st.sampled_from(["m1", "m2"])),
    st.builds(lambda a: Range(Scope("suggestion", "verdict", "score"), a, None), st.floats(0, 1)),
    st.builds(lambda u, v: Terms(Scope("response", "verdict", user=u), (v,)), SCOPED_USERS, st.sampled_from(["approve", "reject"])),
    st.builds(lambda u, v: Terms(Scope("response", "reasons", user=u), (v,)), SCOPED_USERS, st.sampled_from(["wrong", "unsafe"])),
    st.builds(lambda u, a: Range(Scope("response", "stars", user=u), a, None), SCOPED_USERS, st.integers(1, 6)),
    st.builds(
        lambda u, v: Terms(Scope("response", user=u), tuple(v)),
        SCOPED_USERS,
        st.lists(st.sampled_from(["pending", "draft", "submitted", "discarded"]), min_size=1, unique=True),
    ),
)


TEXTS: dict[str | None, Any] = {
    None: lambda d: True,
    "asthma": lambda d: d.fields["prompt"] == "asthma",
    "-asthma": lambda d: d.fields["prompt"] != "asthma",
    "asthma | yes": lambda d: d.fields["prompt"] == "asthma" or d.fields["completion"] == "yes",
    "-(asthma yes) | dia*": lambda d: d.fields["prompt"] == "diabetes" or (d.fields["prompt"], d.fields["completion"]) != ("asthma", "yes"),
    '"asthma yes"': lambda d: False,
}
SORTS = (
    Scope("metadata", "score"),
    Scope("metadata", "topic"),
    Scope("record", "updated_at"),
    Scope("record", "status"),
    Scope("suggestion", "verdict", "score"),
    Scope("response", "stars"),
    Scope("response", "stars", user="u2"),
)
FUZZ = 20_000 if os.environ.get("SEEDCORN_SOAK") else 300


@given(
    parts=st.lists(FILTERS, max_size=3),
    text=st.sampled_from(list(TEXTS)),
    orders=st.lists(st.builds(Sort, st.sampled_from(SORTS), st.booleans()), max_size=3, unique_by=lambda order: order.scope),
    offset=st.integers(0, 40),
    limit=st.integers(1, 90),
)
@settings(max_examples=FUZZ, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_page_is_what_a_naive_reading_makes_of_it(
    index: Index, parts: list[Filter], text: str | None, orders: list[Sort], offset: int, limit: int
) -> None:
    """Filters, texts, sorts and pages together, in order; ties stay in the order of the records' coming."""
    condition = All(tuple(parts))
    page = search(index, "d", question=Question(text=text, filter=condition), sort=orders, offset=offset, limit=limit)
    expected = [doc for doc in DOCS if holds(doc, condition) and TEXTS[text](doc)]
    assert page.total == len(expected)
    for order in reversed(orders):
        have = [doc for doc in expected if sort_value(doc, order) is not None]
        missing = [doc for doc in expected if sort_value(doc, order) is None]
        # A reversed sort keeps ties in their order too.
        expected = [*sorted(have, key=lambda doc: sort_value(doc, order), reverse=order.descending), *missing]
    found = [hit.record for hit in page.hits]
    if orders or text is None:
        assert found == [doc.id for doc in expected[offset : offset + limit]]
    else:
        assert set(found) <= {doc.id for doc in expected} and len(set(found)) == len(expected[offset : offset + limit])


@given(parts=st.lists(FILTERS, max_size=2), text=st.sampled_from(list(TEXTS)), sign=st.sampled_from([1, -1]), limit=st.integers(1, 80))
@settings(max_examples=FUZZ // 3, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_similar_are_those_of_a_naive_reading(index: Index, parts: list[Filter], text: str | None, sign: int, limit: int) -> None:
    condition = All(tuple(parts))
    asked = next(doc for doc in DOCS if doc.vectors)
    value = sign * np.array(asked.vectors["v"])
    page = search_similar(
        index, "d", vector="v", value=value.tolist(), question=Question(text, filter=condition), excluded=asked.id, limit=limit
    )
    among = [doc for doc in DOCS if doc.vectors and doc is not asked and holds(doc, condition) and TEXTS[text](doc)]
    cosine = {doc.id: float(np.dot(doc.vectors["v"], value) / np.linalg.norm(doc.vectors["v"]) / np.linalg.norm(value)) for doc in among}
    assert [hit.record for hit in page.hits] == sorted(cosine, key=lambda name: -cosine[name])[:limit]
    assert page.total == len(among)


def test_user_and_value_must_hold_in_one_response(tmp_path: Path) -> None:
    responses = [ResponseDoc("1", "u1", "submitted", {"verdict": "approve"}), ResponseDoc("2", "u2", "submitted", {"verdict": "reject"})]
    made = fill(tmp_path / "s.db", [RecordDoc("r", {"prompt": "x"}, responses=responses)])
    nested = Terms(Scope("response", "verdict", user="u1"), ("reject",))
    assert search(made, "d", question=Question(filter=nested)).total == 0
    assert search(made, "d", question=Question(filter=Terms(Scope("response", "verdict", user="u2"), ("reject",)))).total == 1


def sort_value(doc: RecordDoc, order: Sort) -> Any:
    scope = order.scope
    if scope.entity == "response":
        mine = [r for r in doc.responses if scope.user in (None, r.user)]
        found = [value for r in mine for value in as_list(r.values.get(str(scope.name)))]
        return sum(found) / len(found) if found else None
    found = values_of(doc, scope)
    return None if not found else max(found) if order.descending else min(found)


@pytest.mark.parametrize("descending", [False, True])
@pytest.mark.parametrize(
    "scope",
    SORTS,
)
def test_sorts_put_missing_last_and_average_answers(index: Index, scope: Scope, descending: bool) -> None:
    order = Sort(scope, descending)
    found = [hit.record for hit in search(index, "d", question=Question(), sort=[order], limit=1000).hits]
    keyed = [(doc, sort_value(doc, order)) for doc in DOCS]
    have = sorted((pair for pair in keyed if pair[1] is not None), key=lambda pair: pair[1], reverse=descending)
    by_id = {doc.id: doc for doc in DOCS}
    assert [sort_value(by_id[r], order) for r in found[: len(have)]] == [value for _, value in have]
    assert set(found[len(have) :]) == {doc.id for doc, value in keyed if value is None}


def test_a_second_sort_settles_ties(index: Index) -> None:
    orders = [Sort(Scope("metadata", "level")), Sort(Scope("record", "external_id"), descending=True)]
    found = [hit.record for hit in search(index, "d", question=Question(), sort=orders, limit=1000).hits]
    expected = sorted(sorted(DOCS, key=lambda d: str(d.external_id), reverse=True), key=lambda d: d.metadata["level"])
    assert found == [doc.id for doc in expected]


@pytest.mark.parametrize("sort", [[], [Sort(Scope("record", "status"))]])
@pytest.mark.parametrize("user", [None, "u1"])
def test_pages_cover_everything_once(index: Index, sort: list[Sort], user: str | None) -> None:
    pages = [search(index, "d", question=Question(), sort=sort, offset=o, limit=7, user=user) for o in range(0, 84, 7)]
    seen = [hit.record for page in pages for hit in page.hits]
    assert sorted(seen) == sorted(doc.id for doc in DOCS)
    assert {page.total for page in pages} == {len(DOCS)}


def test_a_users_order_is_theirs_and_survives_a_rebuild(index: Index, tmp_path: Path) -> None:
    def order(of: Index, user: str) -> list[str]:
        return [hit.record for hit in search(of, "d", question=Question(), limit=1000, user=user).hits]

    assert order(index, "u1") == order(index, "u1")
    assert order(index, "u1") != order(index, "u2")
    rebuilt = fill(tmp_path / "again.db", list(reversed(DOCS)))
    assert order(rebuilt, "u1") == order(index, "u1")


def test_an_answer_does_not_move_the_others(tmp_path: Path) -> None:
    made = fill(tmp_path / "s.db", [RecordDoc(f"r{n}", {"prompt": "x"}) for n in range(30)])
    pending = Question(filter=Terms(Scope("response", user="u1"), ("pending",)))
    before = [hit.record for hit in search(made, "d", question=pending, limit=100, user="u1").hits]
    made.put_response("d", before[0], ResponseDoc("a", "u1", "submitted", {"verdict": "approve"}))
    made.set_status(before[0], "completed")
    after = search(made, "d", question=pending, limit=100, user="u1")
    assert [hit.record for hit in after.hits] == before[1:]
    assert after.total == 29


@pytest.mark.parametrize("sign", [1, -1])
def test_similarity_ranks_by_cosine(index: Index, sign: int) -> None:
    query = next(doc for doc in DOCS if doc.vectors)
    value = [sign * x for x in query.vectors["v"]]
    page = search_similar(index, "d", vector="v", value=value, question=Question(), excluded=query.id, limit=10)
    others = {doc.id: np.array(doc.vectors["v"]) for doc in DOCS if doc.vectors and doc.id != query.id}
    q = np.array(value)
    scores = {name: (1 + float(v @ q / np.linalg.norm(v) / np.linalg.norm(q))) / 2 for name, v in others.items()}
    best = sorted(scores, key=lambda name: -scores[name])[:10]
    assert [hit.record for hit in page.hits] == best
    assert [hit.score for hit in page.hits] == pytest.approx([scores[name] for name in best], abs=1e-6)
    assert page.total == len(others)


def test_similarity_obeys_filter_text_and_threshold(index: Index) -> None:
    question = Question(text="asthma", filter=Range(Scope("metadata", "score"), ge=5))
    page = search_similar(index, "d", vector="v", value=[1, 0, 0, 0], question=question, limit=100, threshold=0.5)
    expected = {
        doc.id
        for doc in DOCS
        if doc.vectors and doc.fields["prompt"] == "asthma" and doc.metadata.get("score", 0) >= 5 and doc.vectors["v"][0] >= 0
    }
    assert {hit.record for hit in page.hits} == expected


def test_a_new_vector_is_seen_at_once(tmp_path: Path) -> None:
    made = fill(
        tmp_path / "s.db", [RecordDoc("a", {"prompt": ""}, vectors={"v": [1, 0]}), RecordDoc("b", {"prompt": ""}, vectors={"v": [0, 1]})]
    )

    def first() -> str:
        return search_similar(made, "d", vector="v", value=[1, 0], question=Question()).hits[0].record

    assert first() == "a"
    made.put_records("d", [RecordDoc("a", {}, vectors={"v": [-1, 0]}), RecordDoc("b", {}, vectors={"v": [1, 0.1]})])
    assert first() == "b"
    made.delete_records("d", ["b"])
    assert first() == "a"


def test_writing_a_record_again_replaces_it(tmp_path: Path) -> None:
    made = fill(tmp_path / "s.db", [RecordDoc("a", {"prompt": "old words"}, metadata={"topic": "a"}), RecordDoc("b", {"prompt": "second"})])
    made.put_records("d", [RecordDoc("a", {"prompt": "new words"}, metadata={"topic": "b"})])
    assert search(made, "d", question=Question(text="old")).total == 0
    assert search(made, "d", question=Question(filter=Terms(Scope("metadata", "topic"), ("a",)))).total == 0
    assert [hit.record for hit in search(made, "d", question=Question()).hits] == ["a", "b"]


def test_responses_and_suggestions_replace_by_id_and_question(tmp_path: Path) -> None:
    made = fill(tmp_path / "s.db", [RecordDoc("a", {"prompt": ""})])
    for verdict in ("approve", "reject"):
        assert made.put_response("d", "a", ResponseDoc("1", "u1", "submitted", {"verdict": verdict}))
        assert made.put_suggestion("d", "a", SuggestionDoc("verdict", verdict, agent="m"))

    def total(entity: Any, value: str) -> int:
        return search(made, "d", question=Question(filter=Terms(Scope(entity, "verdict"), (value,)))).total

    assert [total("response", "approve"), total("response", "reject")] == [0, 1]
    assert [total("suggestion", "approve"), total("suggestion", "reject")] == [0, 1]
    made.delete_response("1")
    made.delete_suggestion("a", "verdict")
    assert [total("response", "reject"), total("suggestion", "reject")] == [0, 0]
    assert made.put_response("d", "missing", ResponseDoc("2", "u1", "submitted")) is False


def test_counts(index: Index) -> None:
    assert count_statuses(index, "d") == {s: sum(d.status == s for d in DOCS) for s in ("completed", "pending")}
    mine = [r.status for d in DOCS for r in d.responses if r.user == "u1"]
    assert count_responses(index, "d", user="u1") == {s: mine.count(s) for s in set(mine)}
    scores = [d.metadata["score"] for d in DOCS if "score" in d.metadata]
    assert find_extent(index, "d", metadata="score") == (min(scores), max(scores))
    topics = [t for d in DOCS for t in as_list(d.metadata.get("topic"))]
    assert dict(count_terms(index, "d", metadata="topic")) == {t: topics.count(t) for t in set(topics)}


def test_dates_take_iso_and_milliseconds(index: Index) -> None:
    for bound in ("2023-11-14T22:13:30+00:00", "2023-11-14T22:13:30", 1_700_000_010_000.0, "1700000010000"):
        page = search(index, "d", question=Question(filter=Range(Scope("record", "inserted_at"), le=bound)))
        assert page.total == 11, bound
    assert search(index, "d", question=Question(filter=Range(Scope("record", "inserted_at"), ge="no date"))).total == 0


def test_what_was_written_survives_and_another_process_sees_it(tmp_path: Path) -> None:
    fill(tmp_path / "s.db")
    code = (
        "import sys; from pathlib import Path; from argilla_setup.engine.index import Index;"
        "from argilla_setup.engine.search import Question, search;"
        "print(search(Index(Path(sys.argv[1])), 'd', question=Question(text='asthma')).total)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "s.db")], capture_output=True, text=True, check=True)
    assert int(done.stdout) == sum(doc.fields["prompt"] == "asthma" for doc in DOCS)


def test_writers_in_several_threads_lose_nothing(tmp_path: Path) -> None:
    made = fill(tmp_path / "s.db", [RecordDoc(f"r{n}", {"prompt": "x"}) for n in range(20)])

    def answer(user: str) -> list[int]:
        counts = []
        for n in range(20):
            made.put_response("d", f"r{n}", ResponseDoc(f"{user}-{n}", user, "submitted", {"verdict": "approve"}))
            counts.append(count_responses(made, "d", user=user)["submitted"])
        return counts

    with ThreadPoolExecutor(4) as threads:
        # Each reads its own write at once, whatever the others do.
        assert list(threads.map(answer, ["a", "b", "c", "d"])) == [list(range(1, 21))] * 4
    assert made.db.execute("SELECT count(*) FROM responses").fetchone() == (80,)


def test_deleting_a_dataset_leaves_the_other(tmp_path: Path) -> None:
    made = fill(tmp_path / "s.db")
    made.create_dataset("other", fields=["prompt"], questions={})
    made.put_records("other", [RecordDoc("o", {"prompt": "asthma"})])
    made.delete_dataset("d")
    made.delete_dataset("d")
    assert search(made, "d", question=Question()).total == 0
    assert search(made, "other", question=Question(text="asthma")).total == 1
    left = {
        table: made.db.execute(f"SELECT count(*) FROM {table}").fetchone()[0] for table in ("records", "responses", "answers", "vectors")
    }
    assert left == {"records": 1, "responses": 0, "answers": 0, "vectors": 0}
    with pytest.raises(LookupError):
        made.put_records("d", [RecordDoc("x", {})])


OLDER = """
CREATE TABLE datasets (seq INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, fields TEXT NOT NULL, questions TEXT NOT NULL);
CREATE TABLE records (seq INTEGER PRIMARY KEY, dataset INTEGER NOT NULL, id TEXT NOT NULL UNIQUE, status TEXT NOT NULL);
CREATE TABLE vectors (record INTEGER NOT NULL, vector TEXT NOT NULL, value BLOB NOT NULL, UNIQUE (record, vector));
CREATE VIRTUAL TABLE text_1 USING fts5(f0, tokenize = "ascii tokenchars '_'");
CREATE VIRTUAL TABLE text_1_words USING fts5vocab(text_1, 'row');
INSERT INTO datasets VALUES (1, 'd', '["prompt"]', '{}');
INSERT INTO records VALUES (1, 1, 'a', 'pending');
INSERT INTO text_1 (rowid, f0) VALUES (1, 'e11 65')
"""


@pytest.mark.parametrize("version", [0, VERSION + 1])
def test_a_file_of_another_release_becomes_one_of_this(tmp_path: Path, version: int) -> None:
    with closing(sqlite3.connect(tmp_path / "s.db")) as db:
        db.executescript(f"{OLDER}; PRAGMA user_version = {version}")
    made = Index(tmp_path / "s.db")
    assert made.db.execute("PRAGMA user_version").fetchone() == (VERSION,)
    # Its terms were cut otherwise, so it is empty, and the check at the server's start finds the database's records missing.
    assert made.find_dataset("d") is None
    made = fill(tmp_path / "s.db", [RecordDoc("a", {"prompt": "E11.65"}, vectors={"v": [1, 0]})])
    assert search(Index(tmp_path / "s.db"), "d", question=Question("E11.65")).total == 1


def test_a_late_write_does_not_undo_a_newer_one(tmp_path: Path) -> None:
    made = fill(tmp_path / "s.db", [RecordDoc("a", {"prompt": ""})])
    for moment, verdict in ((2, "approve"), (1, "reject")):
        made.put_response("d", "a", ResponseDoc("1", "u1", "submitted", {"verdict": verdict}, moment))
    assert search(made, "d", question=Question(filter=Terms(Scope("response", "verdict"), ("approve",)))).total == 1


def test_one_day_ends_at_its_end(index: Index) -> None:
    page = search(index, "d", question=Question(filter=Range(Scope("record", "inserted_at"), le="2023-11-14")))
    assert page.total == len(DOCS)
    assert search(index, "d", question=Question(filter=Range(Scope("record", "inserted_at"), ge="2023-11-15"))).total == 0
