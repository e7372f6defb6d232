"""Every page of the service with axe-core: no serious or critical violation, in light and dark, on a telephone and on a desk."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest

from curation import api as stages
from curation.server.app import PAGES
from curation.store import reviews
from curation.store.database import open_store
from curation.store.reviews import StoredAnswer
from tests.support.axe import axe_source, violations
from tests.support.browsing import browser as browser
from tests.support.projects import Bed, blank, import_plain, score_by_hand
from tests.support.service_client import linked

pytestmark = pytest.mark.browser
LOOKS = [("light", 1440), ("dark", 400)] + ([("light", 400), ("dark", 1440)] if os.environ.get("SEEDCORN_SOAK") else [])


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Bed, str, str]]:
    """A project with a dropped and a disputed row behind `curate serve`: the project, the address, and the link that works once."""
    base = tmp_path_factory.mktemp("axe")
    bed = Bed(blank(base / "garden"), base)
    import_plain(bed.folder, 8)
    score_by_hand(bed.folder)
    with open_store(bed.folder) as db:
        for user, says in (("ada", "approve"), ("bob", "reject")):
            values = {"verdict": says, "edited_completion": "", "comment": "not sure"}
            reviews.add_answers(db, [StoredAnswer(f"r:{user}", "t", 1, user, "submitted", values, "", "", False)], 1)
    stages.decide(bed.folder)
    stages.override(bed.folder, bed.rows()[2].id, action="drop", reason="odd")
    with linked(bed.folder) as link:
        yield bed, link.partition("/#")[0], link


def test_no_page_has_a_serious_violation(served: tuple[Bed, str, str], browser: Any) -> None:
    bed, address, link = served
    source, page = axe_source(), browser.new_page()
    page.goto(f"{address}/rows")
    page.wait_for_selector("form.login")
    found = {("log-in", *look): problems for look in LOOKS if (problems := looked_at(page, source, look))}
    page.goto(link)
    page.wait_for_selector(".cards")
    for path in PAGES:
        page.goto(address + path.replace("{identity}", bed.rows()[0].id).replace("{name}", "none"))
        page.wait_for_selector("main h1")
        found |= {(path, *look): problems for look in LOOKS if (problems := looked_at(page, source, look))}
    page.close()
    assert found == {}


def looked_at(page: Any, source: str, look: tuple[str, int]) -> list[str]:
    """Return the violations in a colour scheme at a width, and whether the page is wider than the window."""
    scheme, width = look
    page.emulate_media(color_scheme=scheme)
    page.set_viewport_size({"width": width, "height": 900})
    wide = page.evaluate("document.documentElement.scrollWidth - innerWidth")
    return [*violations(page, source), *([f"the page is {wide} px wider than the window"] if wide > 0 else [])]
