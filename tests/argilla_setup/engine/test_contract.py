"""argilla-server's `SearchEngine` contract: the same calls to our engine and, where one is named, to a real Elasticsearch or OpenSearch.

    SEEDCORN_TEST_ELASTICSEARCH=http://localhost:9200 pytest -m argilla tests/argilla_setup/engine/test_contract.py

A URL that starts with `opensearch+` names an OpenSearch. Without one, ours alone is asked and held against a naive reading.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from argilla_setup.server.environment import ensure_environment
from tests.conftest import ROOT

pytestmark = pytest.mark.argilla
CALLS = ROOT / "tests" / "support" / "engine_calls.py"
ELSEWHERE = os.environ.get("SEEDCORN_TEST_ELASTICSEARCH")
Plain = dict[str, Any]


def ask(engine: str, folder: Path, **environment: str) -> Plain:
    home = {"ARGILLA_HOME_PATH": str(folder), "HF_HUB_DISABLE_TELEMETRY": "1", "PATH": os.environ["PATH"]}
    # -P: the folder of the script has an argilla_server.py, which would hide the package of that name.
    command = [str(ensure_environment(print)), "-P", str(CALLS), engine]
    done = subprocess.run(command, env=home | environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return dict(json.loads(done.stdout.splitlines()[-1]))


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Plain:
    return ask("sqlite", tmp_path_factory.mktemp("engine"))


def mine(record: Plain) -> Any:
    return record["answers"].get(record["first user"], [None, None, None])


FILTERS: dict[str, Callable[[Plain], Any]] = {
    "completed": lambda r: r["status"] == "completed",
    "score 3 to 6": lambda r: 3 <= r.get("score", -1) <= 6,
    "topic": lambda r: r.get("topic") in ("a", "c"),
    "level": lambda r: r.get("level", 0) >= 3,
    "suggested": lambda r: r.get("suggested value") == "yes",
    "sure": lambda r: r.get("suggested score", 0) >= 0.5,
    "agent": lambda r: r.get("suggested agent") == "m",
    "mine": lambda r: mine(r)[1] == "yes",
    "anyone's": lambda r: any(verdict == "no" for _, verdict, _ in r["answers"].values()),
    "stars": lambda r: (mine(r)[2] or 0) >= 3,
    "my pending": lambda r: mine(r)[0] is None,
    "my pending or draft": lambda r: mine(r)[0] in (None, "draft"),
    "nobody's": lambda r: not r["answers"],
    "submitted": lambda r: any(status == "submitted" for status, _, _ in r["answers"].values()),
    "several": lambda r: r["status"] == "pending" and mine(r)[1] == "yes" and r.get("topic") in ("a", "b"),
}
SORTS: dict[str, Callable[[Plain], Any]] = {
    "score": lambda r: r.get("score"),
    "topic": lambda r: r.get("topic"),
    "level": lambda r: r.get("level"),
    "sure": lambda r: r.get("suggested score"),
    "suggested": lambda r: r.get("suggested value"),
    "stars": lambda r: mine(r)[2],
    "inserted": lambda r: r["name"],
    "status": lambda r: r["status"],
}


@pytest.mark.parametrize("name", FILTERS)
def test_a_filter_finds_what_a_naive_reading_finds(ours: Plain, name: str) -> None:
    expected = sorted(record["name"] for record in ours["records"] if FILTERS[name](record))
    assert 0 < len(expected) < len(ours["records"])
    assert ours["answers"][f"filter {name}"] == [expected, len(expected)]


@pytest.mark.parametrize("order", ["asc", "desc"])
@pytest.mark.parametrize("name", SORTS)
def test_a_sort_orders_with_what_is_missing_last(ours: Plain, name: str, order: str) -> None:
    records = sorted(ours["records"], key=lambda record: record["name"])
    held = sorted((r for r in records if SORTS[name](r) is not None), key=SORTS[name], reverse=order == "desc")
    expected = [r["name"] for r in (*held, *(r for r in records if SORTS[name](r) is None))]
    assert ours["answers"][f"sort {name} {order}"] == [expected, len(expected)]


def test_counts_and_metrics(ours: Plain) -> None:
    records, answers = ours["records"], ours["answers"]
    completed = sum(record["status"] == "completed" for record in records)
    assert answers["progress"] == {"total": len(records), "completed": completed, "pending": len(records) - completed}
    scores = [record["score"] for record in records if "score" in record]
    assert answers["metrics score"] == {"min": min(scores), "max": max(scores), "type": "float"}
    assert answers["metrics topic"]["total"] == len(scores)
    assert answers["everything, for each"] == [[record["name"] for record in records]] * 2
    assert len(answers["most_similar None"]) == 5 and not set(answers["most_similar None"]) & set(answers["least_similar None"])


@pytest.mark.skipif(ELSEWHERE is None, reason="SEEDCORN_TEST_ELASTICSEARCH names no Elasticsearch or OpenSearch to compare with")
def test_elasticsearch_finds_the_same(ours: Plain, tmp_path: Path) -> None:
    url = str(ELSEWHERE)
    engine = "opensearch" if url.startswith("opensearch+") else "elasticsearch"
    theirs = ask(engine, tmp_path, ARGILLA_ELASTICSEARCH=url.removeprefix("opensearch+"), ARGILLA_SEARCH_ENGINE=engine)
    differing = {name: (answer, theirs["answers"][name]) for name, answer in ours["answers"].items() if theirs["answers"][name] != answer}
    assert differing == {}
