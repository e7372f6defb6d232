"""A simulated annotator's visit to a project's review: finds its own credentials and datasets, then answers what is pending."""

from __future__ import annotations

import json
from pathlib import Path

from curation.errors import ReviewError
from curation.project import load_project
from curation.records import KINDS
from curation.standin.reviews import ReviewSummary, simulate_reviews


def review_as(folder: Path, *, name: str, log: Path, seed: int) -> ReviewSummary:
    """Answer everything that waits for this annotator.

    Raises:
        ReviewError: the project's Argilla is not on this machine, is down, or does not know the annotator.
    """
    from argilla_setup.server.control import describe_server
    from argilla_setup.server.home import open_home

    project = load_project(folder)
    if project.review.argilla is None:
        what = f"{folder}/project.yaml: review.argilla"
        raise ReviewError(what, "names no server on this machine", "argilla-setup up --detach --home FOLDER")
    home = open_home((folder / project.review.argilla).resolve())
    status = describe_server(home)
    if not status.healthy:
        raise ReviewError(f"Argilla in {home.folder}", "is not running", f"argilla-setup up --detach --home {home.folder}")
    account = home.users_folder / f"{name}.json"
    if not account.is_file():
        next_step = f"argilla-setup users add {name} --workspace {project.review.workspace} --home {home.folder}"
        raise ReviewError(f"annotator {name}", "has no account on this server", next_step)
    grounding = project.plan.grounding
    return simulate_reviews(
        status.url,
        json.loads(account.read_text())["api_key"],
        workspace=project.review.workspace,
        datasets=[f"{project.name}-{kind}" for kind in KINDS],
        name=name,
        seed=seed,
        log=log,
        table=folder / grounding.table if grounding else None,
    )
