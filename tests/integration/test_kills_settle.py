"""`push` and `pull` killed with SIGKILL while disputes go to the adjudicator and come back: nothing is lost and nothing counts twice."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from argilla_setup import forms
from argilla_setup.users import Account
from curation import api as stages
from curation.store import facts, reviews
from curation.store.database import open_store
from curation.store.reviews import StoredAnswer
from curation.store.rows import list_rows
from tests.support.argilla_server import RunningArgilla
from tests.support.killing import LANDED, finish, kill_at, kills_of
from tests.support.projects import blank, import_plain
from tests.support.relay import Relay, relay_to
from tests.support.review_settings import set_review

pytestmark = [pytest.mark.argilla, pytest.mark.timeout(2400)]
NAME, ROWS = "killed-settle", 20 * max(kills_of("settle"), kills_of("pull"))


@pytest.fixture
def relay(argilla_home: RunningArgilla, monkeypatch: pytest.MonkeyPatch) -> Iterator[Relay]:
    """Argilla behind a relay, where the commands find it."""
    with relay_to(argilla_home.url) as relay:
        monkeypatch.setenv("ARGILLA_API_URL", relay.url)
        monkeypatch.setenv("ARGILLA_API_KEY", argilla_home.api_key)
        yield relay


def as_user(server: RunningArgilla, key: str) -> httpx.Client:
    return httpx.Client(base_url=f"{server.url}/api/v1/", headers={"X-Argilla-Api-Key": key}, timeout=60)


def disputed_project(folder: Path) -> Path:
    """A project in which ada and bob disagree on every row."""
    blank(folder)
    set_review(folder, "{mode: all, overlap: 2, annotators: [], adjudicators: [zelda]}")
    import_plain(folder, ROWS)
    with open_store(folder) as db:
        for row in list_rows(db, "instruction"):
            said = {"ada": "approve", "bob": "reject"}
            given = [StoredAnswer(f"{row.id}:{u}", "t", row.seq, u, "submitted", {"verdict": v}, "", "", False) for u, v in said.items()]
            reviews.add_answers(db, given, 1)
    stages.decide(folder)
    return folder


def held(server: RunningArgilla) -> dict[str, str]:
    """External id to Argilla's own id of each record of the adjudicator's dataset; each must be there once."""
    items = list[dict[str, str]]()
    with as_user(server, server.api_key) as http:
        found = [item["id"] for item in http.get("me/datasets").json()["items"] if item["name"] == f"{NAME}-instruction-settle"]
        while found and (page := http.get(f"datasets/{found[0]}/records", params={"limit": 500, "offset": len(items)}).json()["items"]):
            items += page
    assert set(Counter(item["external_id"] for item in items).values()) <= {1}
    return {item["external_id"]: item["id"] for item in items}


def rule(server: RunningArgilla, zelda: Account, there: dict[str, str], places: range) -> None:
    """Approve, edit or reject the rows at these places in the order of their ids."""
    with as_user(server, zelda.api_key) as http:
        for number, identity in ((place, sorted(there)[place]) for place in places):
            edit = {forms.EDITED_COMPLETION: {"value": f"Text {number} by the adjudicator."}} if number % 3 == 0 else {}
            values = {forms.VERDICT: {"value": "approve" if number % 2 == 0 or edit else "reject"}} | edit
            assert http.post(f"records/{there[identity]}/responses", json={"values": values, "status": "submitted"}).status_code == 201


def test_killed_at_any_moment_every_dispute_is_shown_once_and_settled_once(
    argilla_home: RunningArgilla, relay: Relay, tmp_path: Path
) -> None:
    folder, draw, landed = disputed_project(tmp_path / NAME), random.Random(5), 0
    zelda = argilla_home.account("zelda", workspace=f"{NAME}-settle")
    for number in range(kills := kills_of("settle")):
        # Every kill lets about one batch of 25 rows through, so that some are left for the next.
        least, delay = relay.count("/records/bulk") + 1, draw.uniform(0, 0.1)
        kill = {"folder": tmp_path / f"{number}", "ready": lambda n=least: relay.count("/records/bulk") >= n, "delay": delay}
        landed += kill_at("curation", "push", str(folder), **kill)
        held(argilla_home)
    assert landed >= int(LANDED * kills)
    assert finish("curation", "push", str(folder), "--json", folder=tmp_path / "pushed")["to_settle"] == ROWS
    there = held(argilla_home)
    assert len(there) == ROWS

    landed, kills = 0, kills_of("pull")
    for number in range(kills):
        rule(argilla_home, zelda, there, range(ROWS * number // kills, ROWS * (number + 1) // kills))
        least, delay = relay.count("/records") + 1, draw.uniform(0, 0.3)
        kill = {"folder": tmp_path / f"pull{number}", "ready": lambda n=least: relay.count("/records") >= n, "delay": delay}
        landed += kill_at("curation", "pull", str(folder), **kill)
    assert landed >= int(LANDED * kills)
    finish("curation", "pull", str(folder), "--json", folder=tmp_path / "pulled")
    with open_store(folder) as db:
        verdicts, rows = facts.verdict_by_seq(db), list_rows(db, "instruction")
        counted = Counter(verdicts[row.seq] for row in rows)
        edits = {row.answers[0] for row in rows if row.parent is not None}
        given = reviews.answers_by_seq(db, "rulings")
    assert edits == {f"Text {number} by the adjudicator." for number in range(0, ROWS, 3)}
    edited, approved = len(edits), sum(number % 2 == 0 for number in range(ROWS) if number % 3)
    assert counted == {"edited": edited, "approved": edited + approved, "rejected": ROWS - edited - approved}
    assert len(given) == ROWS and {len(one) for one in given.values()} == {1}
    again = finish("curation", "push", str(folder), "--json", folder=tmp_path / "again")
    assert again["to_settle"] == 0 and held(argilla_home) == there
