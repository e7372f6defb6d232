"""Queries to a filled server, and many annotators at once: what `benchmarks/argilla.py search | annotators` measures, by HTTP."""

from __future__ import annotations

import json
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path
from typing import Any

import httpx

from argilla_setup.server.home import Home
from benchmarks import argilla as bench
from curation.review import ArgillaReview

ROUNDS = 60
CHUNK = 5000
PAGE = 10
"""Records that the page requests at a time."""


def measure_searches(count: int, *, browser: bool = False, rounds: int = ROUNDS) -> dict[str, Any]:
    """Return the p95 of each kind of query at a number of records, the web server's memory, and the time to the page's first record."""
    with bench.running(people=["ann"]) as (home, review, web):
        began = time.perf_counter()
        rows = chain.from_iterable(bench.make_rows(min(CHUNK, count - n), seed=n, first=n) for n in range(0, count, CHUNK))
        assert sum(len(batch) for batch in bench.push(review, rows)) == count
        filled = time.perf_counter() - began
        with person(home, review.url, "ann") as ann, connection(review.url, review.key) as owner:
            dataset = find_dataset(ann)
            questions = make_questions(ann, owner, dataset)
            times = {name: measure(ask, rounds) for name, ask in questions.items()}
        page = time_first_record(home, review.url, dataset) if browser else None
        files = {path.name: round(path.stat().st_size / 2**20) for path in (home.database, home.index)}
        return {
            "records": count,
            "push_records_per_s": round(count / filled, 1),
            "ms": times,
            "first_record_in_chromium_s": page,
            "web_rss_mb": round(web.memory_info().rss / 2**20),
            "files_mb": files,
        }


def make_questions(ann: httpx.Client, owner: httpx.Client, dataset: str) -> dict[str, Callable[[int], Any]]:
    """Return the queries by name; the number makes each repetition a different query."""
    draw = random.Random(5)
    shown = search(owner, f"datasets/{dataset}", {}, limit=100)["items"]
    ids = [item["record"]["id"] for item in shown]
    words = [word for item in shown for word in item["record"]["fields"]["prompt"].split()]
    mine = f"me/datasets/{dataset}"

    def submit_next(_: int) -> None:
        record = search(ann, mine, PENDING, limit=1)["items"][0]["record"]["id"]
        submit(ann, record)

    theirs = f"datasets/{dataset}"
    return {
        "next record": lambda n: search(ann, mine, PENDING, limit=PAGE, offset=n % 50),
        "search one word": lambda n: search(ann, mine, {**PENDING, "query": {"text": {"q": words[n]}}}, limit=PAGE),
        "search two of any": lambda n: search(ann, mine, {"query": {"text": {"q": f"{words[n]} | {draw.choice(words)}"}}}, limit=PAGE),
        "filter by score and topic": lambda n: search(owner, theirs, {"filters": {"and": [score(n % 8 + 1), topic(words)]}}, limit=PAGE),
        "filter by response": lambda _: search(ann, mine, SUBMITTED, limit=PAGE),
        "sort by score": lambda n: search(owner, theirs, {"sort": [by_score(n)]}, limit=PAGE, offset=n * PAGE),
        "find similar": lambda n: search(ann, mine, near(ids[n % len(ids)]), limit=50),
        "find similar and filter": lambda n: search(owner, theirs, {**near(ids[n % len(ids)]), "filters": {"and": [score(5)]}}, limit=50),
        "progress": lambda _: ann.get(f"me/datasets/{dataset}/metrics").raise_for_status(),
        "next record and submit": submit_next,
    }  # fmt: skip


def pending(*statuses: str) -> dict[str, Any]:
    scope = {"entity": "response", "property": "status"}
    return {"filters": {"and": [{"type": "terms", "scope": scope, "values": list(statuses)}]}}


PENDING, SUBMITTED = pending("pending"), pending("submitted")


def score(least: float) -> dict[str, Any]:
    return {"type": "range", "scope": {"entity": "metadata", "metadata_property": "score_total"}, "ge": least}


def topic(words: Sequence[str]) -> dict[str, Any]:
    known = sorted({word for word in words if not word.startswith("word")})[:5]
    return {"type": "terms", "scope": {"entity": "metadata", "metadata_property": "topic"}, "values": known}


def by_score(n: int) -> dict[str, Any]:
    return {"scope": {"entity": "metadata", "metadata_property": "score_total"}, "order": ("asc", "desc")[n % 2]}


def near(record: str) -> dict[str, Any]:
    return {"query": {"vector": {"name": "embedding", "record_id": record}}}


def search(http: httpx.Client, path: str, body: dict[str, Any], *, limit: int, offset: int = 0) -> dict[str, Any]:
    """Request one page with everything that it shows for each record."""
    params = {"limit": limit, "offset": offset, "include": ["responses", "suggestions"]}
    reply = http.post(f"{path}/records/search", params=params, json=body)
    assert reply.status_code == 200, reply.text
    return dict(reply.json())


def submit(http: httpx.Client, record: str) -> httpx.Response:
    """Approve a record."""
    return http.post(f"records/{record}/responses", json={"values": {"verdict": {"value": "approve"}}, "status": "submitted"})


def measure(ask: Callable[[int], Any], rounds: int) -> dict[str, float]:
    """Return median and p95 in milliseconds; the first query is not counted."""
    ask(0)
    times = []
    for n in range(1, rounds + 1):
        began = time.perf_counter()
        ask(n)
        times.append((time.perf_counter() - began) * 1000)
    return summary(times)


def summary(times: Sequence[float]) -> dict[str, float]:
    """Return median, p95 and maximum."""
    ordered = sorted(times)
    return {
        "p50": round(ordered[len(ordered) // 2], 1),
        "p95": round(ordered[min(len(ordered) - 1, int(len(ordered) * 0.95))], 1),
        "max": round(ordered[-1], 1),
    }


def answer_while_pushing(count: int, *, people: int, answers: int) -> dict[str, Any]:
    """Let a number of people annotate while a push runs, on a separate server."""
    names = [f"ann{n}" for n in range(people)]
    with bench.running(people=names) as (home, review, web):
        used = web.cpu_times()
        found = annotate_during_push(home, review, names, count=count, answers=answers)
        now = web.cpu_times()
        return found | {"server_cpu_s": round(now.user + now.system - used.user - used.system, 1)}


def annotate_during_push(home: Home, review: ArgillaReview, names: Sequence[str], *, count: int, answers: int) -> dict[str, Any]:
    """Let these people annotate while a push runs; every acknowledged response must exist at the end."""
    seed = bench.make_rows(len(names) * answers // 2 + 200, seed=3)
    assert sum(len(batch) for batch in bench.push(review, seed)) == len(seed)
    rows, started, pushed = bench.make_rows(count, seed=4, first=10**6), threading.Event(), dict[str, Any]()

    def push() -> None:
        started.wait()
        began = time.perf_counter()
        pushed["sent"] = sum(len(batch) for batch in bench.push(review, rows))
        pushed["seconds"] = round(time.perf_counter() - began, 1)

    with ThreadPoolExecutor(len(names) + 1) as pool:
        pusher = pool.submit(push)
        work = [pool.submit(one_person, home, review.url, name, answers, started) for name in names]
        done = [future.result() for future in work]
        pusher.result()
    with connection(review.url, review.key) as owner, person(home, review.url, names[0]) as ann:
        held = read_responses(owner, find_dataset(ann))
    given = {response for each in done for response in each["given"]}
    return {
        "people": len(names),
        "answered": len(given),
        "lost": len(given - held),
        "pushed": pushed,
        "statuses": Counter(status for each in done for status in each["statuses"]),
        "submit_ms": summary([ms for each in done for ms in each["submit"]]),
        "next_record_ms": summary([ms for each in done for ms in each["next"]]),
    }


def one_person(home: Home, url: str, name: str, answers: int, started: threading.Event) -> dict[str, Any]:
    """Fetch the next record, wait, submit; return acknowledged responses and their times."""
    out: dict[str, Any] = {"given": [], "statuses": [], "submit": [], "next": []}
    draw = random.Random(name)
    with person(home, url, name) as http:
        dataset = find_dataset(http)
        started.set()
        while len(out["given"]) < answers:
            began = time.perf_counter()
            items = search(http, f"me/datasets/{dataset}", PENDING, limit=PAGE)["items"]
            out["next"].append((time.perf_counter() - began) * 1000)
            for item in items[: answers - len(out["given"])]:
                time.sleep(draw.uniform(0.3, 0.9))  # quicker than anybody reads
                began = time.perf_counter()
                reply = submit(http, item["record"]["id"])
                out["submit"].append((time.perf_counter() - began) * 1000)
                out["statuses"].append(reply.status_code)
                if reply.status_code == 201:
                    out["given"].append(reply.json()["id"])
    return out


def read_responses(owner: httpx.Client, dataset: str) -> set[str]:
    """Return the ids of all responses on the server."""
    held: set[str] = set()
    for offset in range(0, 10**7, 500):
        params = {"include": "responses", "limit": 500, "offset": offset}
        items = owner.get(f"datasets/{dataset}/records", params=params).raise_for_status().json()["items"]
        held |= {response["id"] for item in items for response in item["responses"]}
        if len(items) < 500:
            return held
    return held


def time_first_record(home: Home, url: str, dataset: str) -> float:
    """Return the seconds from opening the dataset's address to its first record on the screen, for a logged-in user."""
    from playwright.sync_api import sync_playwright

    account = read_account(home, "ann")
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox", "--disable-gpu"])
        page = chromium.new_page()
        page.goto(f"{url}/sign-in")
        page.locator("input[name=Username]").fill("ann")
        page.locator("input[type=password]").fill(account["password"])
        page.keyboard.press("Enter")
        page.get_by_text("Your datasets").wait_for()
        began = time.perf_counter()
        page.goto(f"{url}/dataset/{dataset}/annotation-mode", wait_until="commit")
        page.wait_for_function("() => document.querySelector('#verdict_approve') !== null", timeout=60_000)
        seconds = round(time.perf_counter() - began, 2)
        chromium.close()
    return seconds


def find_dataset(http: httpx.Client) -> str:
    return next(item["id"] for item in http.get("me/datasets").json()["items"] if item["name"] == bench.DATASET)


def person(home: Home, url: str, name: str) -> httpx.Client:
    return connection(url, read_account(home, name)["api_key"])


def connection(url: str, key: str) -> httpx.Client:
    return httpx.Client(base_url=f"{url}/api/v1/", headers={"X-Argilla-Api-Key": key}, timeout=60)


def read_account(home: Home, name: str) -> dict[str, Any]:
    return dict(json.loads(Path(home.users_folder / f"{name}.json").read_text()))
