"""The mock provider over real HTTP: the protocol, injected errors, and responses that depend on seed and body alone."""

from __future__ import annotations

import asyncio
import json
import os
import stat
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pyarrow.parquet as pq
import pytest

from curation.generate import Ask, Made, ask_requests, naive_requests, records_from, requests_for, shorten
from curation.judge import Scorable, Scores, scores_from
from curation.judge import requests_for as score_requests
from curation.plan import Cell, make_plan
from curation.records import make_instruction
from curation.requests import Answer, Request
from curation.simulation import mode_collapse
from curation.simulation.defects import RATES
from curation.simulation.process import SimulationError, start, status, stop
from curation.simulation.provider import MockProvider
from tests.support.icd_samples import ROWS, SEEDS, SYSTEM, TABLE, answer_lines, project


class Running:
    """The mock provider of a test."""

    def __init__(self, folder: Path, log: Path, url: str) -> None:
        self.folder, self.log, self.url = folder, log, url

    def client(self, **options: Any) -> Any:
        from anthropic import Anthropic

        return Anthropic(base_url=self.url, api_key="offline", **{"max_retries": 0, **options})

    def logged(self, name: str = "requests") -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.log / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()]


def started(folder: Path, **options: Any) -> Running:
    (folder / "project").mkdir(parents=True, exist_ok=True)
    pq.write_table(TABLE, folder / "t.parquet")
    url = start(folder / "project", table=folder / "t.parquet", seed=7, log=folder / "log", **options)
    return Running(folder / "project", folder / "log", url)


@pytest.fixture(scope="module")
def standin(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    running = started(tmp_path_factory.mktemp("standin"))
    try:
        yield running
    finally:
        stop(running.folder)


def bodies(*, instruction: int = 12, preference: int = 4, **options: Any) -> list[tuple[Cell, Request]]:
    p = project(instruction=instruction, preference=preference, **options)
    table = TABLE if options.get("grounded", True) else None
    cells = make_plan(p, table=table, protected_texts=["Wenckebach's block", "Third degree block"])
    return list(zip(cells, requests_for(cells, project=p, seeds=SEEDS), strict=True))


def test_a_message_says_that_it_is_offline_and_reads_as_the_sdk_expects(standin: Running) -> None:
    cell, request = bodies()[0]
    raw = standin.client().messages.with_raw_response.create(**request.body)
    message = raw.parse()
    assert message.id.startswith("msg_offline_") and raw.headers["x-offline-standin"] == "true" and message.model == request.body["model"]
    assert message.usage.input_tokens > 500 and message.usage.output_tokens > 10
    assert int(raw.headers["anthropic-ratelimit-requests-remaining"]) > 0 and raw.headers["request-id"]
    assert cell.key


def test_answers_depend_on_seed_and_body_alone(standin: Running, tmp_path: Path) -> None:
    asked = [request.body for _, request in bodies(instruction=20)]
    first = [standin.client().messages.create(**body).model_dump() for body in asked]
    other = started(tmp_path)
    try:
        again = [other.client().messages.create(**body).model_dump() for body in reversed(asked)]
    finally:
        stop(other.folder)
    assert first == again[::-1]
    assert len({m["id"] for m in first}) == len(asked)


def test_the_log_has_each_request_and_the_truth_each_message_once(standin: Running) -> None:
    _, request = bodies(instruction=200)[-5]
    before = len(standin.logged())
    ids = {standin.client().messages.create(**request.body).id for _ in range(3)}
    new = standin.logged()[before:]
    assert len(new) == 3 and {line["status"] for line in new} == {200} and {line["response_id"] for line in new} == ids and len(ids) == 1
    truths = [line for line in standin.logged("truth") if line["message_id"] in ids]
    assert len(truths) == 1 and truths[0].keys() >= {"message_id", "item", "flaw", "source"}


def test_a_blank_brief_gets_examples_and_pairs_about_it(standin: Running) -> None:
    made: list[Made] = []
    for cell, request in bodies(grounded=False, instruction=25, preference=10):
        message = standin.client().messages.create(**request.body).model_dump(mode="json")
        made += [
            m for m in records_from(Answer(request=request, message=message), cell, project=project(grounded=False)) if isinstance(m, Made)
        ]
    assert len(made) > 25
    prompts = [m.record.prompt[-1].content for m in made]
    assert len(set(prompts)) > 0.8 * len(prompts)
    about = sum(any(word in p.lower() for word in ("soil", "compost", "pests", "vegetables", "gardeners", "hobby")) for p in prompts)
    assert about > 0.6 * len(prompts)


@pytest.mark.parametrize(
    ("change", "status", "kind"),
    [
        ({"temperature": 1.0}, 400, "invalid_request_error"),
        ({"max_tokens": 0}, 400, "invalid_request_error"),
        ({"messages": []}, 400, "invalid_request_error"),
        ({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "{"}]}, 400, "invalid_request_error"),
        ({"model": "gpt-4o"}, 404, "not_found_error"),
    ],
)
def test_what_the_api_refuses_is_refused(standin: Running, change: dict[str, Any], status: int, kind: str) -> None:
    body = {**bodies()[0][1].body, **change}
    headers = {"x-api-key": "k", "anthropic-version": "2023-06-01"}
    reply = httpx.post(f"{standin.url}/v1/messages", json=body, headers=headers)
    assert reply.status_code == status and reply.json()["error"]["type"] == kind and reply.json()["type"] == "error"


def test_a_missing_or_wrong_key_is_refused(standin: Running) -> None:
    for headers in ({}, {"x-api-key": "wrong-key", "anthropic-version": "2023-06-01"}):
        assert httpx.post(f"{standin.url}/v1/messages", json={}, headers=headers).status_code == 401


def test_max_tokens_cuts_the_answer(standin: Running) -> None:
    body = next(r.body for _, r in bodies() if standin.client().messages.create(**r.body).stop_reason == "end_turn")
    message = standin.client().messages.create(**{**body, "max_tokens": 20})
    assert message.stop_reason == "max_tokens" and message.usage.output_tokens == 20


def test_models_and_token_counts(standin: Running) -> None:
    client = standin.client()
    info = client.models.retrieve("claude-haiku-5-5")
    assert info.lifecycle == "active" and "Offline stand-in" in info.display_name and info.max_input_tokens
    assert [m.id for m in client.models.list()]
    body = {k: v for k, v in bodies()[0][1].body.items() if k != "max_tokens"}
    assert client.messages.count_tokens(**body).input_tokens > 500


def wait_for_end(client: Any, batch_id: str) -> Any:
    until = time.monotonic() + 15
    while (batch := client.messages.batches.retrieve(batch_id)).processing_status != "ended":
        assert time.monotonic() < until, "the batch did not end"
        time.sleep(0.1)
    return batch


def test_a_batch_gives_the_same_messages_in_no_order(standin: Running) -> None:
    client, asked = standin.client(), bodies(instruction=30)
    requests = [{"custom_id": r.key, "params": r.body} for _, r in asked]
    requests.append({"custom_id": "late", "params": {**asked[0][1].body, "temperature": 1}})
    batch = client.messages.batches.create(requests=requests)
    assert batch.id.startswith("msgbatch_offline_") and batch.processing_status == "in_progress" and batch.results_url is None
    ended = wait_for_end(client, batch.id)
    assert (ended.request_counts.succeeded, ended.request_counts.errored) == (len(asked), 1)
    results = list(client.messages.batches.results(batch.id))
    assert [r.custom_id for r in results] != [r["custom_id"] for r in requests]
    by_id = {r.custom_id: r.result for r in results}
    assert by_id["late"].type == "errored" and by_id["late"].error.error.type == "invalid_request_error"
    for _, request in asked[:5]:
        assert by_id[request.key].message.content == client.messages.create(**request.body).content
    assert batch.id in [b.id for b in client.messages.batches.list()]


def test_a_batch_outlives_the_server_and_can_be_canceled(tmp_path: Path) -> None:
    running = started(tmp_path, options={"batch-seconds": "60"})
    try:
        requests = [{"custom_id": "one", "params": bodies()[0][1].body}]
        batch = running.client().messages.batches.create(requests=requests)
        assert stop(running.folder)
        running = started(tmp_path, options={"batch-seconds": "60"})
        client = running.client()
        assert client.messages.batches.retrieve(batch.id).processing_status == "in_progress"
        assert client.messages.batches.cancel(batch.id).processing_status == "canceling"
        assert wait_for_end(client, batch.id).request_counts.canceled == 1
        assert [r.result.type for r in client.messages.batches.results(batch.id)] == ["canceled"]
    finally:
        stop(running.folder)


def test_errors_come_at_the_stated_rate_and_a_retry_can_pass(tmp_path: Path) -> None:
    rates = {"error-429": "0.2", "error-500": "0.1", "error-529": "0.1"}
    running = started(tmp_path, options=rates)
    try:
        body = bodies()[0][1].body
        headers = {"x-api-key": "k", "anthropic-version": "2023-06-01"}
        with httpx.Client() as http:
            replies = [http.post(f"{running.url}/v1/messages", json=body, headers=headers) for _ in range(300)]
        seen = {code: sum(r.status_code == code for r in replies) for code in (200, 429, 500, 529)}
        assert 40 <= seen[429] <= 80 and 15 <= seen[500] <= 48 and 15 <= seen[529] <= 48 and sum(seen.values()) == 300
        assert all(r.headers.get("retry-after") for r in replies if r.status_code == 429)
        assert running.client(max_retries=9).messages.create(**body).id.startswith("msg_offline_")
    finally:
        stop(running.folder)


def test_a_thousand_requests_are_quick(standin: Running) -> None:
    asked = [r.body for _, r in bodies(instruction=1000, preference=0)]

    async def ask_all() -> list[Any]:
        from anthropic import AsyncAnthropic

        gate = asyncio.Semaphore(16)
        async with AsyncAnthropic(base_url=standin.url, api_key="offline", max_retries=0) as client:

            async def ask(body: dict[str, Any]) -> Any:
                async with gate:
                    return await client.messages.create(**body)

            return await asyncio.gather(*map(ask, asked))

    began = time.monotonic()
    messages = asyncio.run(ask_all())
    assert len({m.id for m in messages}) == 1000
    assert time.monotonic() - began < 60, "on two quiet cores it is about ten seconds"


def test_state_is_private_status_is_true_and_stop_is_final(tmp_path: Path) -> None:
    running = started(tmp_path)
    try:
        state = running.folder / ".standin.json"
        assert stat.S_IMODE(state.stat().st_mode) == 0o600
        now = status(running.folder)
        assert now.running and now.url == running.url and now.pid
        assert start(running.folder, table=None, seed=1, log=tmp_path / "log") == running.url
        assert stop(running.folder) and not state.exists() and not stop(running.folder)
        with pytest.raises(ProcessLookupError):
            os.kill(now.pid, 0)
    finally:
        stop(running.folder)


def test_a_stale_state_never_stops_a_stranger(tmp_path: Path) -> None:
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / ".standin.json").write_text(json.dumps({"url": "http://127.0.0.1:9", "pid": os.getpid()}))
    assert not status(folder).running and not stop(folder)


def test_a_log_inside_the_project_a_missing_table_and_a_taken_port_are_refused(tmp_path: Path, standin: Running) -> None:
    with pytest.raises(SimulationError, match="outside"):
        start(tmp_path, table=None, seed=7, log=tmp_path / "log")
    with pytest.raises(SimulationError, match="table not found"):
        start(tmp_path / "p", table=tmp_path / "t.parquet", seed=7, log=tmp_path / "log")
    (tmp_path / "p").mkdir()
    with pytest.raises(SimulationError, match="in use"):
        start(tmp_path / "p", table=None, seed=7, log=tmp_path / "log", port=int(standin.url.rsplit(":", 1)[1]))


def test_the_judge_tells_right_from_wrong_over_http(standin: Running) -> None:
    def total(output: str) -> float:
        record = make_instruction("Wenckebach's block, second degree, seen on telemetry", output, system=SYSTEM)
        reference = {k: v for k, v in ROWS["I44.1"].items() if k in ("code", "description", "chapter", "terms")}
        request = next(iter(score_requests([Scorable("r", record, reference)], project=project())))
        message = standin.client().messages.create(**request.body).model_dump(mode="json")
        found = scores_from(Answer(request=request, message=message), project=project())
        assert isinstance(found, Scores)
        return found.total

    with ThreadPoolExecutor(4) as pool:
        right = list(pool.map(total, [answer_lines("I44.1", f"Reason number {n} names the block.") for n in range(20)]))
        wrong = list(pool.map(total, [answer_lines("I44.2", f"Reason number {n} names the block.") for n in range(20)]))
    assert sum(t >= 7 for t in right) >= 17 and sum(t < 7 for t in wrong) >= 16


def bare_body(brief: str) -> dict[str, Any]:
    p = project(grounded=False, brief=brief)
    return next(iter(naive_requests(p, 1))).body


def ideas(provider: MockProvider, body: dict[str, Any], count: int) -> Counter[str]:
    """Count the ideas in the responses to one body sent many times; refusals and truncated responses are left out."""
    texts = []
    for nth in range(count):
        message = provider.respond(body, nth=nth).message
        if message["stop_reason"] == "end_turn":
            texts.append(json.loads(message["content"][0]["text"])["examples"][0]["instruction"])
    return Counter(texts)


def test_the_same_prompt_repeated_is_answered_by_the_law_whatever_it_says() -> None:
    provider = MockProvider.load(None, seed=7, rates=dict.fromkeys(RATES, 0.0))
    for brief in ("Help hobby gardeners with soil, compost and vegetables.", "Explain train timetables, tickets and delays to visitors."):
        seen = [n for _, n in ideas(provider, bare_body(brief), 2000).most_common()]
        assert len(seen) <= mode_collapse.MODES
        for rank in (0, 1, 2):
            assert abs(seen[rank] / 2000 - mode_collapse.SHARES[rank]) < 0.03
        assert abs(sum(seen[:5]) / 2000 - sum(mode_collapse.SHARES[:5])) < 0.03


def test_under_the_law_a_number_changes_nothing_and_what_is_taken_is_mostly_kept_away_from() -> None:
    provider = MockProvider.load(None, seed=7, rates=dict.fromkeys(RATES, 0.0), collapses=True)
    p = project(grounded=False, instruction=300, preference=0)
    cells = {c.id: c for c in make_plan(p, table=None, protected_texts=())}
    same = next(iter(cells.values())).attributes
    cells = {id_: cell.model_copy(update={"attributes": same}) for id_, cell in cells.items()}

    def texts(taken: tuple[str, ...]) -> list[str]:
        asks = [Ask(slot=id_, taken=taken) for id_ in cells]
        bodies = [r.body for r in ask_requests(asks, cells, project=p, seeds=[])]
        return [json.loads(provider.respond(body).message["content"][0]["text"])["examples"][0]["instruction"] for body in bodies]

    free = Counter(texts(()))
    assert len(free) <= mode_collapse.MODES and 0.25 < free.most_common(1)[0][1] / 300 < 0.45
    common = [text for text, _ in free.most_common(3)]
    shunned = Counter(texts(tuple(map(shorten, common))))
    assert sum(shunned[text] for text in common) < 0.35 * sum(free[text] for text in common)


def test_the_server_counts_repeats_and_goes_on_counting_after_a_restart(tmp_path: Path) -> None:
    body, first, second = bare_body("Help hobby gardeners with soil and compost."), [], []
    running = started(tmp_path)
    for said in (first, second):
        try:
            said += [running.client().messages.create(**body).id for _ in range(4)]
        finally:
            stop(running.folder)
        running = started(tmp_path) if said is first else running
    assert len(set(first + second)) == 8
