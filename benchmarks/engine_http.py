"""A quarter of a million records over HTTP: database and index are filled in bulk, then the server on them is queried.

    python -m benchmarks.engine_http [--records 250000] [--rounds 40]

The first 500 rows are pushed as `curate push` does, the others are written by SQL in the shape those have, and into the index as the
server would write them; a twentieth has an answer. Before anything is timed, the check that the server makes at its start must find
no difference between the two. Prints one JSON object; milliseconds.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import httpx
import orjson

from argilla_setup.engine.consistency import find_gaps
from argilla_setup.engine.documents import RecordDoc, ResponseDoc, SuggestionDoc
from argilla_setup.engine.filters import microseconds
from argilla_setup.engine.index import Index
from benchmarks import argilla as bench
from benchmarks import argilla_load as load
from curation.review import Shown

PUSHED = 500
ANSWERED = 20
"""One record in this many has a response."""

Made = tuple[str, Shown, str | None, datetime]
"""A record's id, its row, the id of its response, and its time."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, default=250_000)
    parser.add_argument("--rounds", type=int, default=40)
    given = parser.parse_args()
    logging.disable(logging.WARNING)
    print(json.dumps({"calibration_s": bench.calibrate(), **measure_at(given.records, rounds=given.rounds)}, indent=2))


def measure_at(count: int, *, rounds: int) -> dict[str, Any]:
    """Return the first time, p50 and p95 of each kind of query, and the size of the server and its files."""
    with bench.running(people=["ann"]) as (home, review, web):
        assert sum(len(batch) for batch in bench.push(review, bench.make_rows(PUSHED, seed=0))) == PUSHED
        before, began = web.memory_info().rss, time.perf_counter()
        fill(home.database, home.index, count - PUSHED)
        filled = time.perf_counter()
        assert find_gaps(home.database, home.index) == [] and bench.count_held(home) == count
        took = {"filled_in_s": round(filled - began), "checked_in_s": round(time.perf_counter() - filled, 1)}
        with load.person(home, review.url, "ann") as ann, load.connection(review.url, review.key) as owner:
            dataset = load.find_dataset(ann)
            times = {name: ask_often(ask, rounds) for name, ask in make_questions(ann, owner, dataset).items()}
        rss = {"web_rss_mb": round(web.memory_info().rss / 2**20), "web_rss_before_mb": round(before / 2**20)}
        files = {path.name: round(path.stat().st_size / 2**20) for path in (home.database, home.index)}
        return {"records": count, **took, "ms": times, **rss, "files_mb": files}


def ask_often(ask: Callable[[int], Any], rounds: int) -> dict[str, float]:
    """Measure the first query separately: it may read into memory what later ones find there."""
    began = time.perf_counter()
    ask(0)
    return {"first": round((time.perf_counter() - began) * 1000, 1), **load.measure(ask, rounds)}


def make_questions(ann: httpx.Client, owner: httpx.Client, dataset: str) -> dict[str, Callable[[int], Any]]:
    """Return the queries of `benchmarks/argilla.py search`, and those that are hard at this size."""
    mine, theirs = f"me/datasets/{dataset}", f"datasets/{dataset}"
    shown = load.search(owner, theirs, {}, limit=100)["items"]
    words = [item["record"]["fields"]["prompt"].split() for item in shown]
    answer = {"scope": {"entity": "response", "question": "verdict"}, "order": "asc"}

    def text(n: int, written: str) -> dict[str, Any]:
        first, _, third, *_ = words[n % 100]
        return {"query": {"text": {"q": written.format(first, third)}}}

    return load.make_questions(ann, owner, dataset) | {
        "near words ~3": lambda n: load.search(ann, mine, text(n, '"{} {}"~3'), limit=10),
        "two words, by relevance": lambda n: load.search(owner, theirs, text(n, "{} {}"), limit=10),
        "a word's beginning, my pending": lambda n: load.search(ann, mine, {**load.PENDING, **text(n, "{:.3}*")}, limit=10),
        "near spelling ~2": lambda n: load.search(ann, mine, text(n, "{}x~2"), limit=10),
        "sort by score, my pending": lambda n: load.search(owner, mine, {**load.PENDING, "sort": [load.by_score(n)]}, limit=10),
        "sort by score, deep page": lambda n: load.search(owner, theirs, {"sort": [load.by_score(n)]}, limit=10, offset=100_000 + n),
        "sort by score, then time": lambda n: load.search(owner, theirs, {"sort": [load.by_score(n), BY_TIME]}, limit=10),
        "sort by my answer": lambda n: load.search(ann, mine, {"sort": [answer]}, limit=10, offset=n),
    }


BY_TIME = {"scope": {"entity": "record", "property": "inserted_at"}, "order": "desc"}


def fill(database: Path, index: Path, count: int) -> None:
    """Write more rows directly into Argilla's database and into the index."""
    with contextlib.closing(sqlite3.connect(database, timeout=60)) as db:
        names = dict(db.execute("SELECT name, id FROM questions"))
        (dataset,), (vector,) = db.execute("SELECT id FROM datasets").fetchone(), db.execute("SELECT id FROM vectors_settings").fetchone()
        (user,) = db.execute("SELECT id FROM users WHERE username = 'ann'").fetchone()
        search = Index(index)
        for batch in make_batches(count):
            with db:
                insert(db, batch, dataset=dataset, questions=names, vector=vector, user=user)
            docs = [make_doc(made, vector=str(UUID(vector)), user=str(UUID(user))) for made in batch]
            for start in range(0, len(docs), PUSHED):
                search.put_records(str(UUID(dataset)), docs[start : start + PUSHED])


def make_batches(count: int) -> Iterator[list[Made]]:
    """Yield rows with ids and times, some thousands at a time."""
    came = datetime.now(UTC).replace(tzinfo=None)
    for start in range(0, count, load.CHUNK):
        rows = bench.make_rows(min(load.CHUNK, count - start), seed=start + 1, first=PUSHED + start)
        yield [
            (uuid4().hex, row, uuid4().hex if n % ANSWERED == 0 else None, came + timedelta(microseconds=start + n))
            for n, row in enumerate(rows)
        ]


def insert(db: sqlite3.Connection, batch: Sequence[Made], *, dataset: str, questions: dict[str, str], vector: str, user: str) -> None:
    """Return the rows of Argilla's tables, as argilla-server writes them."""
    rows: dict[str, list[dict[str, Any]]] = {"records": [], "suggestions": [], "vectors": [], "responses": []}
    for id, row, answer, came in batch:
        at = came.isoformat(" ", "microseconds")
        times, part = {"inserted_at": at, "updated_at": at}, {"record_id": id, "inserted_at": at, "updated_at": at}
        status, body = "completed" if answer else "pending", {"fields": json.dumps(row.fields), "metadata": json.dumps(row.metadata)}
        rows["records"].append({"id": id, "external_id": row.id, "dataset_id": dataset, "status": status, **body, **times})
        for name, value in row.suggestions.items():
            given = {"value": json.dumps(value), "score": "null", "agent": "seedcorn", "question_id": questions[name]}
            rows["suggestions"].append({"id": uuid4().hex, **given, **part})
        rows["vectors"].append({"id": uuid4().hex, "value": orjson.dumps(row.vector).decode(), "vector_settings_id": vector, **part})
        if answer:
            said = {"values": json.dumps({"verdict": {"value": verdict(row)}}), "status": "submitted", "user_id": user}
            rows["responses"].append({"id": answer, **said, **part})
    for table, made in rows.items():
        names = list(made[0])
        columns, marks = (", ".join(map(shape.format, names)) for shape in ('"{}"', ":{}"))
        db.executemany(f"INSERT INTO {table} ({columns}) VALUES ({marks})", made)


def make_doc(made: Made, *, vector: str, user: str) -> RecordDoc:
    """Return the record as the server would pass it to the index."""
    id, row, answer, at = made
    moment = microseconds(at)
    return RecordDoc(
        id=str(UUID(id)),
        fields=row.fields,
        status="completed" if answer else "pending",
        external_id=row.id,
        inserted_at=moment,
        updated_at=moment,
        metadata=row.metadata,
        suggestions=[SuggestionDoc(name, value, agent="seedcorn", updated_at=moment) for name, value in row.suggestions.items()],
        responses=[ResponseDoc(str(UUID(answer)), user, "submitted", {"verdict": verdict(row)}, moment)] if answer else [],
        vectors={vector: row.vector or ()},
    )


def verdict(row: Shown) -> str:
    """Return the annotator's response."""
    return "approve" if row.metadata["score_total"] > 4 else "reject"


if __name__ == "__main__":
    main()
