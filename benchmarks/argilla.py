"""Argilla on one machine: start-up, pushing compared with the stock server and SDK, searching at size, twenty people at once.

    python benchmarks/argilla.py start | push | search | annotators [--records N] [--people N] [--answers N]

Each part starts servers of its own in a temporary folder, prints one JSON object and ends them. Timings hold for the machine they were
taken on; the ratios are what to look at. The seconds of a calibration loop are printed with them.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    # Remove the script's folder from sys.path: this file would shadow the package `argilla`.
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import psutil

from argilla_setup import bootstrap
from argilla_setup.server.control import any_free_port, is_healthy, server_url, start_detached, stop_server
from argilla_setup.server.environment import environment_folder
from argilla_setup.server.home import Home, count_contents, load_secrets, open_home
from argilla_setup.server.settings import load_settings
from argilla_setup.server.supervisor import server_environment
from argilla_setup.users import ensure_account
from curation.review import ArgillaReview, Shown, form_settings, open_dataset, push_records

SIZE = 384
WORKSPACE = "bench"
DATASET = "cases"


def main() -> None:
    """Run one part of the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=["start", "push", "search", "annotators"])
    parser.add_argument("--records", type=int)
    parser.add_argument("--people", type=int, default=20)
    parser.add_argument("--answers", type=int, default=50)
    parser.add_argument("--browser", action="store_true", help="search: also time the page's first record in Chromium")
    given = parser.parse_args()
    logging.disable(logging.WARNING)
    calibration = calibrate()
    from benchmarks import argilla_load as load

    if given.part == "start":
        result = time_starts()
    elif given.part == "push":
        result = compare_pushes(given.records or 5000)
    elif given.part == "search":
        result = load.measure_searches(given.records or 50_000, browser=given.browser)
    else:
        result = load.answer_while_pushing(given.records or 5000, people=given.people, answers=given.answers)
    print(json.dumps({"part": given.part, "calibration_s": calibration, **result}, indent=2))


def calibrate() -> float:
    """Return the seconds of a fixed loop, a measure of this machine's current speed and load."""
    began = time.perf_counter()
    sum(n * n for n in range(5_000_000))
    return round(time.perf_counter() - began, 2)


def time_starts() -> dict[str, Any]:
    """Return the seconds from the command to the page for an empty folder and for the same folder again; the environment is built.

    CPU seconds of all started processes are included: the time that the start would take on one quiet core.
    """
    out: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="argilla-bench-") as folder:
        home = open_home(Path(folder))
        try:
            for name in ("first", "next"):
                used, began = os.times(), time.perf_counter()
                status = start_detached(home, port=0, notify=lambda _: None)
                seconds, now = time.perf_counter() - began, os.times()
                processes = [psutil.Process(pid).cpu_times() for pid in status.processes.values()]
                cpu = sum(each.user + each.system for each in processes)
                cpu += sum(getattr(now, part) - getattr(used, part) for part in ("user", "system", "children_user", "children_system"))
                out[name] = {"seconds": round(seconds, 1), "cpu_seconds": round(cpu, 1)}
                stop_server(home)
        finally:
            stop_server(home)
    return out


def compare_pushes(count: int) -> dict[str, Any]:
    """Push the same rows to the stock server with the stock SDK, and to ours as `curate push` does; return records per second."""
    rows = make_rows(count, seed=1)
    out: dict[str, Any] = {"records": count}
    for name, stock in (("stock", True), ("ours", False)):
        with running(stock=stock) as (home, review, web):
            began, cpu = time.perf_counter(), web.cpu_times()
            sent = push_by_sdk(review, rows) if stock else sum(len(batch) for batch in push(review, rows))
            seconds = time.perf_counter() - began
            used = web.cpu_times()
            assert sent == count == count_held(home)
            server_ms = round((used.user + used.system - cpu.user - cpu.system) / count * 1000, 2)
            out[name] = {"records_per_s": round(count / seconds, 1), "server_cpu_ms_a_record": server_ms}
    out["ratio"] = round(out["ours"]["records_per_s"] / out["stock"]["records_per_s"], 2)
    return out


def push(review: ArgillaReview, rows: Iterable[Shown]) -> Iterator[list[Shown]]:
    """Push as `curate push` does."""
    return push_records(review, open_dataset(review, DATASET, settings=form()), rows)


def push_by_sdk(review: ArgillaReview, rows: Sequence[Shown]) -> int:
    """Push as the SDK's documentation shows, with its defaults."""
    import argilla as rg

    target = bootstrap.ensure_dataset(review.client, DATASET, workspace=WORKSPACE, settings=form())
    records = [
        rg.Record(
            id=row.id,
            fields=dict(row.fields),
            metadata=dict(row.metadata),
            vectors={"embedding": list(row.vector or ())},
            suggestions=[rg.Suggestion(name, value, agent="seedcorn") for name, value in row.suggestions.items()],
        )
        for row in rows
    ]
    target.records.log(records)
    return len(records)


def form() -> Any:
    """Return the instruction form with the default criteria."""
    return form_settings("instruction", criteria=["accuracy", "clarity", "usefulness", "on_brief"], dimensions=SIZE, overlap=1)


def make_rows(count: int, *, seed: int, first: int = 0) -> list[Shown]:
    """Return rows of about 60 words, with the metadata and the prefilled text that `curate push` sends, and a vector."""
    import numpy as np

    draw, numbers = random.Random(seed), np.random.default_rng(seed)
    words = [
        f"{a}{b}" for a in ("card", "derm", "gast", "neur", "oste", "pulm", "ren", "hem") for b in ("itis", "osis", "algia", "oma", "al")
    ]
    words += [f"word{n}" for n in range(1500)]
    rows = []
    for n in range(first, first + count):
        prompt, answer = (" ".join(draw.choices(words, k=size)) for size in (20, 40))
        vector = numbers.normal(size=SIZE)
        scores = {f"score_{name}": float(draw.randint(1, 10)) for name in ("accuracy", "clarity", "usefulness", "on_brief", "total")}
        terms = {"topic": draw.choice(words[:40]), "task": "coding", "difficulty": draw.choice(["easy", "hard"]), "source": "generated"}
        fields = {"prompt": prompt, "completion": answer}
        unit = [round(float(x), 6) for x in vector / np.linalg.norm(vector)]
        rows.append(Shown(f"row{n:07}", fields, {**scores, **terms}, {"edited_completion": answer}, unit))
    return rows


@contextmanager
def running(*, stock: bool = False, people: Sequence[str] = ()) -> Iterator[tuple[Home, ArgillaReview, psutil.Process]]:
    """Yield a server in a temporary folder, a connection as its owner, and its web process."""
    with tempfile.TemporaryDirectory(prefix="argilla-bench-") as folder:
        home = open_home(Path(folder))
        try:
            status = start_detached(home, port=0, notify=lambda _: None)
            url, web = start_stock(home) if stock else (status.url, psutil.Process(status.processes["web"]))
            yield home, open_review(home, url, people), web
        finally:
            stop_server(home)


def open_review(home: Home, url: str, people: Sequence[str] = ()) -> ArgillaReview:
    """Return the owner's connection after creating the annotators' accounts."""
    client = bootstrap.connect(url, load_secrets(home).owner_api_key, timeout=600)
    bootstrap.ensure_workspace(client, WORKSPACE)
    for name in people:
        ensure_account(url, client.api_key, name=name, workspace=WORKSPACE, folder=home.users_folder)
    return ArgillaReview(client, WORKSPACE, url, load_secrets(home).owner_api_key)


def start_stock(home: Home) -> tuple[str, psutil.Process]:
    """Start the stock app on the same database as ours, which is idle meanwhile. `stop_server` ends both."""
    choices = load_settings(home)
    port = any_free_port(choices.host)
    command = [str(environment_folder() / "bin" / "python"), str(Path(__file__).with_name("argilla_stock.py")), choices.host, str(port)]
    environment = server_environment(home, load_secrets(home), replace(choices, port=port))
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    until = time.monotonic() + 90
    while not is_healthy(port):
        assert process.poll() is None and time.monotonic() < until, "the stock server did not start"
        time.sleep(0.2)
    return server_url(port), psutil.Process(process.pid)


def count_held(home: Home) -> int:
    """Return the number of records in the server's database."""
    return count_contents(home)["records"]


if __name__ == "__main__":
    main()
