"""Small Argilla datasets made over the REST API, and a wait for what a search finds."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import httpx

from argilla_setup import forms
from argilla_setup.bootstrap import (
    ensure_dataset,
)
from argilla_setup.users import Account
from tests.support.argilla_server import RunningArgilla

WORKSPACE = "review"


COUNT = 30


def make_dataset(client: Any, name: str, numbers: Sequence[int], *, overlap: int = 2) -> Any:
    import argilla as rg

    made = ensure_dataset(client, name, workspace=WORKSPACE, settings=settings(overlap=overlap))
    records = [
        rg.Record(
            id=f"r{n:02}",
            fields={"prompt": f"{'diabetes' if n % 2 else 'asthma'} case number {n}", "completion": f"Code: J45.{n}"},
            metadata={"score_total": n / 3, "score_accuracy": float(n % 5), "topic": "lung" if n % 2 == 0 else "sugar"},
            vectors={"embedding": [float(COUNT - n), float(n)]},
            suggestions=[rg.Suggestion("edited_completion", f"Code: J45.{n}", agent="teacher")],
        )
        for n in numbers
    ]
    made.records.log(records)
    return made


def settings(*, overlap: int = 2, criteria: Sequence[str] = ("accuracy",), dimensions: int = 2) -> Any:
    return forms.instruction_settings(criteria, vector_dimensions=dimensions, overlap=overlap)


def as_person(argilla: RunningArgilla, person: Account) -> httpx.Client:
    return httpx.Client(base_url=f"{argilla.url}/api/v1/", headers={"X-Argilla-Api-Key": person.api_key}, timeout=120)


def search(http: httpx.Client, dataset: Any, body: dict[str, Any] | None = None, *, offset: int = 0, limit: int = 50) -> dict[str, Any]:
    include = {"include": ["responses", "suggestions"]}
    path = f"me/datasets/{dataset.id}/records/search"
    answer = http.post(path, params={"offset": offset, "limit": limit} | include, json=body or {})
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def wait_for(condition: Callable[[], bool], *, seconds: float = 240) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "waited in vain"
        time.sleep(0.1)
