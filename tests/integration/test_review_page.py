"""A project's rows through the real page: pushed by `curate push`, answered by a person at the keyboard, brought back by `curate pull`."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from curation import api as stages
from curation.simulation.process import start, stop
from curation.store import facts, reviews
from curation.views.state import ProjectState
from curation.workspace import open_workspace
from tests.support import zygote
from tests.support.argilla_server import RunningArgilla
from tests.support.browsing import PATIENCE_MS, browser, fresh, log_in, opened, picture, row_text

__all__ = ["browser"]
pytestmark = [pytest.mark.argilla, pytest.mark.browser, pytest.mark.model]


def curate(*arguments: object) -> None:
    """In a process of its own, as people run it; the browser holds this process's event loop."""
    done = zygote.run("curation", *arguments, timeout=300)
    assert done.returncode == 0, done.stderr.decode()


@pytest.fixture
def pushed(project: Path, argilla_home: RunningArgilla, tmp_path: Path) -> Iterator[Path]:
    """A small project, written, scored and pushed; one annotator called ada."""
    file = project / "project.yaml"
    text = file.read_text()
    for old, new in (
        ("instruction: 40", "instruction: 12"),
        ("preference: 12", "preference: 0"),
        ("argilla: null", f"argilla: {argilla_home.home.folder}"),
        ("workspace: coding", "workspace: page-coding"),
        ("name: coding", "name: page-coding"),
        ("annotators: []", "annotators: [ada]"),
        ("overlap: 2", "overlap: 1"),
    ):
        assert old in text, old
        text = text.replace(old, new, 1)
    file.write_text(text)
    start(project, table=project / "tables" / "icd10cm.parquet", seed=7, log=tmp_path / "log")
    argilla_home.account("ada", workspace="page-coding")
    try:
        curate("run", project, "--until", "push")
        yield project
    finally:
        stop(project)


def test_an_answer_given_in_the_page_comes_back_by_pull(pushed: Path, argilla_home: RunningArgilla, browser: Any) -> None:
    person = argilla_home.account("ada", workspace="page-coding")
    with opened(fresh(browser), argilla_home.url) as (page, seen):
        log_in(page, argilla_home.url, person)
        page.get_by_text("page-coding-instruction", exact=True).click()
        page.wait_for_function("() => document.activeElement?.id === 'verdict_approve'")
        picture(
            page,
            "curate-push",
            shows=["May this be used?", "Edited completion", "Code: ", "Assign the ICD-10-CM code", "page-coding-instruction"],
        )
        page.get_by_text("Guidelines").first.click()
        page.get_by_text("assign the most specific billable ICD-10-CM code").wait_for()
        first = row_text(page, "completion")
        for key in ("Tab", "1", "Enter"):
            page.keyboard.press(key)
        page.wait_for_function("() => document.activeElement?.id === 'verdict_approve'")
        until = time.monotonic() + PATIENCE_MS / 1000
        while row_text(page, "completion") == first:
            assert time.monotonic() < until, "the next record did not come"

    pulled = stages.pull(pushed)
    assert (pulled.counts["answers"], pulled.counts["new"], pulled.counts["simulated"]) == (1, 1, False)
    assert stages.pull(pushed).counts["new"] == 0
    with open_workspace(pushed) as workspace:
        [(seq, [opinion])] = ProjectState(workspace).annotations.items()
        assert (opinion.user, opinion.says) == ("ada", "approve")
        assert facts.verdict_by_seq(workspace.db)[seq] == "approved"
        [answer] = reviews.answers_by_seq(workspace.db)[seq]
        assert answer.payload == reviews.shown_payloads(workspace.db, reviews.Place("", "", "page-coding-instruction"))[seq]

    hidden = ("score_total", "score_accuracy", "score_overall", "usefulness", '"source"', '"topic"')
    assert seen.bodies and not [name for name, body in seen.bodies.items() if any(word in body for word in hidden)]


def test_scoring_again_updates_what_owners_filter_by_in_place(pushed: Path, argilla_home: RunningArgilla) -> None:
    import httpx

    def held() -> dict[str, dict[str, Any]]:
        headers = {"X-Argilla-Api-Key": argilla_home.api_key}
        datasets = httpx.get(f"{argilla_home.url}/api/v1/me/datasets", headers=headers).json()["items"]
        wanted = next(d["id"] for d in datasets if d["name"] == "page-coding-instruction")
        items = httpx.get(f"{argilla_home.url}/api/v1/datasets/{wanted}/records", params={"limit": 100}, headers=headers).json()["items"]
        assert len({item["external_id"] for item in items}) == len(items)
        return {item["external_id"]: item["metadata"] for item in items}

    before = held()
    assert all({"score_total", "score_accuracy", "source"} <= metadata.keys() for metadata in before.values())
    file = pushed / "project.yaml"
    file.write_text(file.read_text().replace("clarity: Is the phrase", "clarity: Above all, is the phrase"))
    curate("score", pushed)
    curate("push", pushed)
    after = held()
    assert before.keys() <= after.keys()
    assert any(before[key] != after[key] for key in before), "another rubric gave exactly the same scores everywhere"
