"""Asking models: what they answer is kept once and paid once, whatever the network and the server do."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from messages_server import Act, always_answer, error_body, message, messages_server, prompt_of

from curation.errors import BudgetReached, ModelUnavailable, ProjectError
from curation.models import AskSummary, Patience, ask, open_model
from curation.project import ModelSpec
from curation.requests import Request
from curation.store.calls import CALLS_SCHEMA, CallLedger

MODEL = "claude-sonnet-5-5"
QUICK = Patience(first_wait_s=0.01, longest_wait_s=0.05)
CHEAP_ANSWER_USD = (100 * 2 + 20 * 10) / 1e6


@pytest.fixture
def database(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    connection = open_database(tmp_path / "workbench.db")
    yield connection
    connection.close()


@pytest.fixture
def ledger(database: sqlite3.Connection) -> CallLedger:
    return CallLedger(database)


def open_database(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, isolation_level=None, timeout=30)
    connection.row_factory = sqlite3.Row
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=NORMAL")
    connection.executescript(CALLS_SCHEMA)
    return connection


def make_request(slot: str, *, max_tokens: int = 100, model: str = MODEL, **more: Any) -> Request:
    body = {"model": model, "max_tokens": max_tokens, "messages": [{"role": "user", "content": slot}], **more}
    return Request(stage="generate", slot=slot, role="teacher", body=body)


def run(ledger: CallLedger, address: str, requests: list[Request], *, timeout_s: float = 5, **more: Any) -> AskSummary:
    spec = ModelSpec(model=MODEL, base_url=address, **more.pop("spec", {"concurrency": 4}))
    model = open_model(spec, environ={"ANTHROPIC_API_KEY": "test-key"}, timeout_s=timeout_s)
    settings = {"budget_usd": 5.0, "simulated": False, "patience": QUICK, **more}
    return ask(requests, model=model, spec=spec, ledger=ledger, **settings)


def test_answers_are_kept_and_not_bought_again(ledger: CallLedger) -> None:
    requests = [make_request(f"cell {n}") for n in range(40)]
    with messages_server() as server:
        first = run(ledger, server.address, requests)
        again = run(ledger, server.address, requests)
        assert sorted(server.log.received) == sorted(prompt_of(r.body) for r in requests)
    assert (first.answered, first.reused, again.answered, again.reused) == (40, 0, 0, 40)
    assert first.cost_usd == pytest.approx(40 * CHEAP_ANSWER_USD) == ledger.spent_usd()
    answers = list(ledger.answers("generate"))
    assert [a.text for a in answers] == [f"answer to {a.request.slot}" for a in answers]
    assert {a.request.key for a in answers} == {r.key for r in requests}
