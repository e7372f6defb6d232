"""Simulated annotators at work: they log in as real annotator users, take what is pending through Argilla's HTTP API, as its page does, and
submit. What they got wrong on purpose goes to a file outside the project.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from argilla_setup import forms
from curation.config.project import load_project
from curation.errors import ReviewError
from curation.records import KINDS
from curation.simulation.annotators import TRUTH_FILE, Answered, ReviewRates, answer_instruction, answer_preference
from curation.simulation.code_table import Codes

PAGE = 100

SIMULATED = "simulated-"
"""The name of every simulated annotator begins so."""


@dataclass(frozen=True)
class ReviewSummary:
    """What one simulated annotator did in one go."""

    name: str
    answered: int
    errors: dict[str, int]
    edited: int


def simulate_reviews(
    url: str,
    api_key: str,
    *,
    workspace: str,
    datasets: Sequence[str],
    name: str,
    seed: int,
    log: Path,
    table: Path | None,
    rates: ReviewRates | None = None,
) -> ReviewSummary:
    """Answer all that is pending for this annotator; records it has answered, and those with enough answers, are left alone.

    Args:
        api_key: the annotator's own key, never the owner's.
        datasets: names of the datasets in the workspace; one that does not exist yet is skipped.
        log: folder outside the project; gets review-truth.jsonl.
        table: the code table, or None for projects without one.

    Raises:
        ReviewError: the name does not say that it is simulated, the key is refused, or the workspace is not its own.
    """
    if not name.startswith(SIMULATED):
        raise ReviewError(f"annotator {name}", f"has a name that does not begin with {SIMULATED}", "name it so, lest it pass for a person")
    codes = Codes.read(table)
    errors: Counter[str] = Counter()
    answered = edited = 0
    log.mkdir(parents=True, exist_ok=True)
    with _open_api(url, api_key) as api, (log / TRUTH_FILE).open("a", encoding="utf-8") as truths:
        for dataset in _datasets(api, workspace, datasets):
            for record in _pending(api, dataset["id"]):
                said = _answer(record, name, seed, rates or ReviewRates(), codes)
                if not _submit(api, record["id"], said):
                    continue
                truths.write(json.dumps({**said.truth, "dataset": dataset["name"]}, ensure_ascii=False) + "\n")
                truths.flush()
                answered, edited = answered + 1, edited + bool(said.truth.get("edited"))
                errors.update([said.truth["error"]] if said.truth["error"] else [])
    return ReviewSummary(name, answered, dict(errors), edited)


def _answer(record: dict[str, Any], name: str, seed: int, rates: ReviewRates, codes: Codes) -> Answered:
    row = {"id": record.get("external_id") or record["id"], **record["fields"]}
    answer = answer_instruction if forms.COMPLETION in row else answer_preference
    return answer(row, name=name, seed=seed, rates=rates, codes=codes)


def _open_api(url: str, api_key: str) -> Any:
    import httpx

    return httpx.Client(base_url=f"{url.rstrip('/')}/api/v1/", headers={"X-Argilla-Api-Key": api_key}, timeout=60)


def _datasets(api: Any, workspace: str, names: Sequence[str]) -> list[dict[str, Any]]:
    own = {w["name"]: w["id"] for w in _items(api, "GET", "me/workspaces")}
    if workspace not in own:
        fact = f"is not a workspace of this annotator; it has {', '.join(own) or 'none'}"
        raise ReviewError(workspace, fact, "curate push lets the annotators of project.yaml in")
    found = {d["name"]: d for d in _items(api, "GET", "me/datasets") if d["workspace_id"] == own[workspace] and d.get("status") == "ready"}
    return [found[name] for name in names if name in found]


def _pending(api: Any, dataset: str) -> Iterator[dict[str, Any]]:
    """Records without an answer of this user, page by page; answered ones leave the first page, so it is read again."""
    pending = {"type": "terms", "scope": {"entity": "response", "property": "status"}, "values": ["pending"]}
    query = {"filters": {"type": "and", "and": [pending]}}
    seen: set[str] = set()
    skipped = 0
    while True:
        params = {"limit": PAGE, "offset": skipped}
        records = [item["record"] for item in _items(api, "POST", f"me/datasets/{dataset}/records/search", params=params, json=query)]
        new = [record for record in records if record["id"] not in seen]
        if not records:
            return
        for record in new:
            seen.add(record["id"])
            if record.get("status") == "completed":
                skipped += 1
                continue
            yield record
        skipped += 0 if new else len(records)


def _submit(api: Any, record: str, said: Answered) -> bool:
    """Submit an answer; False when the server holds one already (another run of the same annotator was faster)."""
    values = {question: {"value": value} for question, value in said.values.items()}
    reply = api.post(f"records/{record}/responses", json={"values": values, "status": "submitted"})
    if reply.status_code == 409:
        return False
    if reply.status_code != 201:
        fact = f"refused an answer ({reply.status_code}: {reply.text[:200]})"
        raise ReviewError(f"Argilla at {api.base_url}", fact, "argilla-setup status")
    return True


def _items(api: Any, method: str, path: str, **options: Any) -> list[dict[str, Any]]:
    import httpx

    try:
        reply = api.request(method, path, **options)
    except httpx.TransportError as error:
        raise ReviewError(f"Argilla at {api.base_url}", f"cannot be reached ({error})", "argilla-setup status") from error
    if reply.status_code != 200:
        raise ReviewError(f"Argilla at {api.base_url}", f"answered {reply.status_code} to {path}", "argilla-setup users")
    items: list[dict[str, Any]] = reply.json()["items"]
    return items


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
