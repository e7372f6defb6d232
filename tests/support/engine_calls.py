"""The same calls through argilla-server's `SearchEngine`, whichever engine answers; run by the server environment's own Python.

    python tests/support/engine_calls.py sqlite|elasticsearch|opensearch

Prints one JSON object: by call, the records found (in order where the order is asked for) and the total.
"""

from __future__ import annotations

import asyncio
import importlib.util
import json
import random
import sys
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid5

NAMESPACE = UUID("6ba7b811-9dad-11d1-80b4-00c04fd430c8")
WORDS = ("asthma", "diabetes", "fracture", "E11.65", "it's", "東京", "café")
QUERIES = (
    *("asthma", "-asthma", "asthma | fracture", "asthma diabetes", '"asthma diabetes"', '"diabetes asthma"~2', "dia*", "astma~1"),
    *("E11", "E11*", "E11.65", "東京", "京東", "cafe", "café", "(asthma | -fracture) diabetes", "?!", "*", "- asthma", "assistant"),
)


def load_ours() -> None:
    """Register our engine; the package is loaded by path, as the server does it."""
    folder = Path(__file__).resolve().parents[2] / "argilla_setup"
    spec = importlib.util.spec_from_file_location("argilla_setup", folder / "__init__.py", submodule_search_locations=[str(folder)])
    assert spec is not None and spec.loader is not None
    package = importlib.util.module_from_spec(spec)
    sys.modules["argilla_setup"] = package
    spec.loader.exec_module(package)
    importlib.import_module("argilla_setup.engine.adapter")


def make_dataset() -> tuple[Any, list[Any], list[Any]]:
    """A dataset with its records, and the people who answered; nothing of it is in a database."""
    from argilla_server.models import Dataset, Field, MetadataProperty, Question, Record, Response, Suggestion, User, Vector, VectorSettings

    def number(name: str) -> UUID:
        return uuid5(NAMESPACE, name)

    draw = random.Random(5)
    vector = VectorSettings(id=number("vector"), name="v", title="v", dimensions=4)
    dataset = Dataset(id=number("dataset"), name="contract", status="ready")
    dataset.fields = [Field(name="prompt", settings={"type": "text"}), Field(name="talk", settings={"type": "chat"})]
    dataset.questions = [
        Question(name="verdict", settings={"type": "label_selection"}),
        Question(name="stars", settings={"type": "rating"}),
        Question(name="comment", settings={"type": "text"}),
    ]
    dataset.metadata_properties = [
        MetadataProperty(name=n, settings={"type": t}) for n, t in (("score", "float"), ("topic", "terms"), ("level", "integer"))
    ]
    dataset.vectors_settings = [vector]
    for item in dataset.metadata_properties:
        item.dataset, item.dataset_id = dataset, dataset.id
    vector.dataset, vector.dataset_id = dataset, dataset.id
    users = [User(id=number(name), username=name) for name in ("u1", "u2")]
    verdict = dataset.questions[0]
    records = []
    for n in range(60):
        text = " ".join(draw.choices(WORDS, k=draw.randint(1, 4)))
        talk = [{"role": draw.choice(["user", "assistant"]), "content": draw.choice(WORDS)} for _ in range(draw.randint(0, 2))]
        moment = datetime(2026, 1, 1) + timedelta(minutes=n)
        metadata = {"score": draw.randint(0, 40) / 4, "topic": draw.choice("abc"), "level": draw.randint(1, 5)} if n % 5 else {}
        record = Record(id=number(f"r{n}"), external_id=f"x{n:02}", fields={"prompt": text, "talk": talk}, metadata_=metadata)
        record.status, record.inserted_at, record.updated_at = ("pending", "completed")[n % 3 == 0], moment, moment
        record.dataset, record.dataset_id = dataset, dataset.id
        record.suggestions = []
        if n % 4:
            suggested = Suggestion(
                id=number(f"s{n}"), value=draw.choice(["yes", "no"]), score=draw.randint(0, 8) / 8, agent=draw.choice("mn"), type="model"
            )
            suggested.question = verdict
            record.suggestions = [suggested]
        record.responses = [
            Response(
                id=number(f"r{n}{user.username}"),
                user_id=user.id,
                status=draw.choice(["submitted", "draft"]),
                values={"verdict": {"value": draw.choice(["yes", "no"])}, "stars": {"value": draw.randint(1, 5)}},
            )
            for user in users
            if draw.random() < 0.4
        ]
        record.vectors = []
        if n % 6:
            held = Vector(id=number(f"v{n}"), value=[draw.gauss(0, 1) for _ in range(4)], vector_settings_id=vector.id)
            held.vector_settings = vector
            record.vectors = [held]
        records.append(record)
    return dataset, records, users


def make_calls(dataset: Any, records: list[Any], users: list[Any]) -> dict[str, tuple[bool, dict[str, Any]]]:
    """By name: whether the order counts, and what the search is given."""
    from argilla_server.search_engine import base as s

    one = users[0]
    scopes = {
        "status": s.RecordFilterScope("status"),
        "inserted": s.RecordFilterScope("inserted_at"),
        "score": s.MetadataFilterScope("score"),
        "topic": s.MetadataFilterScope("topic"),
        "level": s.MetadataFilterScope("level"),
        "suggested": s.SuggestionFilterScope("verdict", "value"),
        "sure": s.SuggestionFilterScope("verdict", "score"),
        "agent": s.SuggestionFilterScope("verdict", "agent"),
        "mine": s.ResponseFilterScope(question="verdict", user=one),
        "anyone's": s.ResponseFilterScope(question="verdict"),
        "stars": s.ResponseFilterScope(question="stars", user=one),
        "my status": s.ResponseFilterScope(property="status", user=one),
        "any status": s.ResponseFilterScope(property="status"),
    }

    def terms(name: str, *values: str) -> Any:
        return s.TermsFilter(scopes[name], list(values))

    filters = {
        "completed": [terms("status", "completed")],
        "score 3 to 6": [s.RangeFilter(scopes["score"], ge=3, le=6)],
        "topic": [terms("topic", "a", "c")],
        "level": [s.RangeFilter(scopes["level"], ge=3)],
        "suggested": [terms("suggested", "yes")],
        "sure": [s.RangeFilter(scopes["sure"], ge=0.5)],
        "agent": [terms("agent", "m")],
        "mine": [terms("mine", "yes")],
        "anyone's": [terms("anyone's", "no")],
        "stars": [s.RangeFilter(scopes["stars"], ge=3)],
        "my pending": [terms("my status", "pending")],
        "my pending or draft": [terms("my status", "pending", "draft")],
        "nobody's": [terms("any status", "pending")],
        "submitted": [terms("any status", "submitted")],
        "several": [terms("status", "pending"), terms("mine", "yes"), terms("topic", "a", "b")],
    }
    calls: dict[str, tuple[bool, dict[str, Any]]] = {f"query {q}": (False, {"query": s.TextQuery(q=q)}) for q in QUERIES}
    calls |= {f"field {q}": (False, {"query": s.TextQuery(q=q, field=f)}) for q in QUERIES for f in ("prompt",)}
    calls |= {f"chat {q}": (False, {"query": s.TextQuery(q=q, field="talk")}) for q in QUERIES}
    calls |= {f"filter {name}": (False, {"filter": s.AndFilter(parts)}) for name, parts in filters.items()}
    calls |= {
        f"both {name}": (False, {"query": "asthma", "filter": s.AndFilter(parts)})
        for name, parts in filters.items()
        if "pending" not in name
    }
    # A second key settles ties, which the engines settle each in its own way.
    for name in ("score", "topic", "level", "sure", "suggested", "stars", "inserted", "status"):
        for order in ("asc", "desc"):
            sort = [s.Order(scopes[name], order), s.Order(s.RecordFilterScope("external_id"), "asc")]
            calls[f"sort {name} {order}"] = (True, {"sort": sort})
    return calls


async def answer(name: str) -> dict[str, Any]:
    """What the engine of this name finds."""
    from argilla_server.search_engine import SearchEngine

    dataset, records, users = make_dataset()
    names = {record.id: record.external_id for record in records}
    found: dict[str, Any] = {}
    async with SearchEngine.get_by_name(name) as engine:
        await engine.delete_index(dataset)
        await engine.create_index(dataset)
        await engine.index_records(dataset, records)
        calls = make_calls(dataset, records, users)
        for label, (ordered, given) in calls.items():
            page = await engine.search(dataset, limit=100, **given)
            hits = [names[item.record_id] for item in page.items]
            found[label] = [hits if ordered else sorted(hits), page.total]
        for order in ("most_similar", "least_similar"):
            for query in (None, "asthma"):
                asked = next(record for record in records if record.vectors)
                page = await engine.similarity_search(
                    dataset, dataset.vectors_settings[0], record=asked, query=query, max_results=5, order=order
                )
                found[f"{order} {query}"] = [names[item.record_id] for item in page.items]
        found["progress"] = await engine.get_dataset_progress(dataset)
        for item in dataset.metadata_properties:
            found[f"metrics {item.name}"] = json.loads((await engine.compute_metrics_for(item)).model_dump_json())
        mine = [sorted([names[i.record_id] for i in (await engine.search(dataset, limit=100, user_id=user.id)).items]) for user in users]
        found["everything, for each"] = mine
        await engine.delete_index(dataset)
        await engine.delete_index(dataset)
    return {"answers": found, "records": [plain(record) for record in records]}


def plain(record: Any) -> dict[str, Any]:
    """A record for the naive reading of the test."""
    return {
        "name": record.external_id,
        "status": record.status,
        **record.metadata_,
        **{f"suggested {part}": getattr(s, part) for s in record.suggestions for part in ("value", "score", "agent")},
        "answers": {str(r.user_id): [r.status, r.values["verdict"]["value"], r.values["stars"]["value"]] for r in record.responses},
        "first user": str(uuid5(NAMESPACE, "u1")),
    }


if __name__ == "__main__":
    load_ours()
    print(json.dumps(asyncio.run(answer(sys.argv[1]))))
