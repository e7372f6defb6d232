"""Client of the simulated annotators: answers pending records over Argilla's HTTP API.

It logs in as a real annotator user and takes records as the web page does. The planted errors go to a file outside the project.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from curation.config.project import load_project
from curation.errors import ReviewError
from curation.records import KINDS
from curation.simulation.annotators import TRUTH_FILE, Annotator, Answer, ReviewRates
from curation.simulation.code_table import CodeTable

if TYPE_CHECKING:
    import httpx

PAGE = 100
"""Records per search request."""

NAME_PREFIX = "simulated-"
"""Start of the name of every simulated annotator."""


@dataclass(frozen=True)
class ReviewSummary:
    """Result of one run of a simulated annotator."""

    answered: int
    errors: int
    """Answers with a planted error."""
    edited: int


def review_as(folder: Path, *, name: str, log: Path, seed: int) -> ReviewSummary:
    """Answer all pending records of a project as one simulated annotator.

    Args:
        folder: project folder.
        name: annotator account on the project's Argilla server.
        log: folder outside the project; gets review-truth.jsonl.
        seed: seed of the answers.

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
    annotator = Annotator(name, seed, ReviewRates(), CodeTable.read(folder / grounding.table if grounding else None))
    datasets = [f"{project.name}-{kind}" for kind in KINDS]
    key = json.loads(account.read_text())["api_key"]
    return simulate_reviews(annotator, status.url, key, workspace=project.review.workspace, datasets=datasets, log=log)


def simulate_reviews(annotator: Annotator, url: str, api_key: str, *, workspace: str, datasets: Sequence[str], log: Path) -> ReviewSummary:
    """Answer all records that are pending for an annotator; skip those that it, or enough other people, have answered.

    Args:
        annotator: the simulated annotator.
        url: address of the Argilla server.
        api_key: the annotator's own key, never the owner's.
        workspace: Argilla workspace.
        datasets: names of datasets in the workspace; one that does not exist yet is skipped.
        log: folder outside the project; gets review-truth.jsonl.

    Raises:
        ReviewError: the name does not say that it is simulated, the key is refused, or the annotator is not in the workspace.
    """
    import httpx

    name = annotator.name
    if not name.startswith(NAME_PREFIX):
        raise ReviewError(
            f"annotator {name}", f"must begin with {NAME_PREFIX}, so that nobody takes it for a person", "choose another name"
        )
    answered = errors = edited = 0
    log.mkdir(parents=True, exist_ok=True)
    headers = {"X-Argilla-Api-Key": api_key}
    with (
        httpx.Client(base_url=f"{url.rstrip('/')}/api/v1/", headers=headers, timeout=60) as api,
        (log / TRUTH_FILE).open("a", encoding="utf-8") as truths,
    ):
        for dataset in _find_datasets(api, workspace, datasets):
            for record in _pending_records(api, dataset["id"]):
                answer = annotator.answer({"id": record.get("external_id") or record["id"], **record["fields"]})
                if not _submit(api, record["id"], answer):
                    continue
                truths.write(answer.truth.model_copy(update={"dataset": dataset["name"]}).model_dump_json() + "\n")
                truths.flush()
                answered += 1
                errors += answer.truth.error is not None
                edited += answer.truth.edited
    return ReviewSummary(answered, errors, edited)


def _find_datasets(api: httpx.Client, workspace: str, names: Sequence[str]) -> list[dict[str, Any]]:
    ids = {w["name"]: w["id"] for w in _get_items(api, "GET", "me/workspaces")}
    if workspace not in ids:
        fact = f"is not a workspace of this annotator; it has {', '.join(ids) or 'none'}"
        raise ReviewError(workspace, fact, "curate push lets the annotators of project.yaml in")
    all_datasets = _get_items(api, "GET", "me/datasets")
    found = {d["name"]: d for d in all_datasets if d["workspace_id"] == ids[workspace] and d.get("status") == "ready"}
    return [found[name] for name in names if name in found]


def _pending_records(api: httpx.Client, dataset: str) -> Iterator[dict[str, Any]]:
    """Yield the records without an answer of this user. Answered ones leave the search, so the first page is read again."""
    pending = {"type": "terms", "scope": {"entity": "response", "property": "status"}, "values": ["pending"]}
    query = {"filters": {"type": "and", "and": [pending]}}
    seen: set[str] = set()
    skipped = 0
    while True:
        params = {"limit": PAGE, "offset": skipped}
        items = _get_items(api, "POST", f"me/datasets/{dataset}/records/search", params=params, json=query)
        records = [item["record"] for item in items]
        if not records:
            return
        new = [record for record in records if record["id"] not in seen]
        for record in new:
            seen.add(record["id"])
            if record.get("status") == "completed":  # enough other people have answered it; it stays in the search
                skipped += 1
            else:
                yield record
        skipped += 0 if new else len(records)


def _submit(api: httpx.Client, record: str, answer: Answer) -> bool:
    """Submit an answer; return False if the server has one already, from another run of the same annotator."""
    values = {question: {"value": value} for question, value in answer.values.items()}
    response = api.post(f"records/{record}/responses", json={"values": values, "status": "submitted"})
    if response.status_code == 409:
        return False
    if response.status_code != 201:
        fact = f"refused an answer ({response.status_code}: {response.text[:200]})"
        raise ReviewError(f"Argilla at {api.base_url}", fact, "argilla-setup status")
    return True


def _get_items(api: httpx.Client, method: str, path: str, **options: Any) -> list[dict[str, Any]]:
    import httpx

    try:
        response = api.request(method, path, **options)
    except httpx.TransportError as error:
        raise ReviewError(f"Argilla at {api.base_url}", f"cannot be reached ({error})", "argilla-setup status") from error
    if response.status_code != 200:
        raise ReviewError(f"Argilla at {api.base_url}", f"answered {response.status_code} to {path}", "argilla-setup users")
    items: list[dict[str, Any]] = response.json()["items"]
    return items
