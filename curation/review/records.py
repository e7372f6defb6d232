"""Records and responses in Argilla: send, read, restore, and take out of the queue or put back into it.

Argilla is the source of truth about what it holds: records are read page by page and matched by external id.

A record that is no longer part of the set is withdrawn: every member of the workspace who has not responded to it gets a discarded
response with a comment of ours. Argilla has no other per-person state, and this one works with every search engine. Nothing that people
gave is changed: the response is created only where there is none (Argilla answers 409 otherwise), so submissions and drafts stay. Deleting
the record instead would lose what somebody submits while the record is open in their browser.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import Any

from argilla_setup import forms
from curation.errors import ReviewError
from curation.review import ArgillaReview, Dataset, Member, Shown, checked_reply, content_digest, open_http

BATCH = 25
"""Records a request. The server takes 500, but people who answer meanwhile wait for as long as one request writes."""
OVERLAP = 1
"""Requests on their way at once; a second one would leave annotators no gap between two writes."""
PAGE = 500
"""Records asked for at a time when a dataset is read."""
READS = 3
"""Times a dataset is read before it is believed that records went missing."""
WITHDRAWN = "Withdrawn: this row is no longer part of the set. Nothing is to be done."
"""Comment of the discarded responses that take a record out of the queue; it tells them from people's own."""


@dataclass(frozen=True)
class Given:
    """One response as Argilla holds it."""

    response: str
    record: str
    user: str
    status: str
    updated: str
    values: Mapping[str, Any]
    withdrawn: bool = False
    """True for a discarded response that `withdraw_records` made in the person's name: no answer of theirs."""


@dataclass(frozen=True)
class Held:
    """One record as Argilla holds it."""

    record: str
    """Argilla's own id."""
    id: str
    """External id: the id of our record."""
    content: str
    """Digest of fields and metadata."""
    responses: tuple[Given, ...] = ()


@dataclass(frozen=True)
class Answered:
    """A response to restore in somebody's name."""

    user_id: str
    status: str
    values: Mapping[str, Any]


def push_records(review: ArgillaReview, dataset: Dataset, shown: Iterable[Shown]) -> Iterator[list[Shown]]:
    """Add or update records by their id, batch by batch; each batch is given back once Argilla holds it.

    Speaks HTTP itself: the SDK sends one batch at a time and has the server compress everything it just received on the way back.
    """
    questions = dataset.questions
    rows, waiting = iter(shown), deque[tuple[list[Shown], Future[None]]]()
    with open_http(review) as http, ThreadPoolExecutor(OVERLAP) as pool:
        while batch := list(islice(rows, BATCH)):
            body = {"items": [_payload(item, questions) for item in batch]}
            waiting.append((batch, pool.submit(_put, http, f"/api/v1/datasets/{dataset.id}/records/bulk", body)))
            if len(waiting) == OVERLAP:
                yield _held(*waiting.popleft())
        while waiting:
            yield _held(*waiting.popleft())


def restore_records(
    review: ArgillaReview, dataset: Dataset, shown: Iterable[Shown], answers: Mapping[str, Sequence[Answered]]
) -> Iterator[tuple[list[Shown], int]]:
    """Create records that Argilla lost, with the responses people gave to them before, batch by batch.

    They are created and not updated: a record that is there after all keeps the responses it has, and only its text is sent.

    Args:
        review: the connection.
        dataset: where the records are missing.
        shown: the missing records.
        answers: by record id, what is to be restored.

    Yields:
        Each batch once Argilla holds it, and how many responses were restored with it.
    """
    rows = iter(shown)
    with open_http(review) as http:
        while batch := list(islice(rows, BATCH)):
            items = [_payload(item, dataset.questions) | _restored(answers.get(item.id, ()), dataset.questions) for item in batch]
            path, count = f"/api/v1/datasets/{dataset.id}/records/bulk", sum(len(item["responses"]) for item in items)
            reply = _send(http, "POST", path, {"items": items})
            if reply.status_code == 422:  # one of them is at fault, and the others are restored all the same
                count = sum(_restore_one(http, path, item) for item in items)
            else:
                checked_reply(reply, "to records")
            yield batch, count


def read_records(review: ArgillaReview, dataset: Dataset, *, responses: bool) -> Iterator[Held]:
    """Read what a dataset holds, page by page: ids and a digest of the content, and the responses where they are asked for.

    Argilla orders pages by time alone, so records of the same moment may change places between two pages; the dataset is read again
    until as many records were seen as it says it has.
    """
    seen = set[str]()
    names = {str(user.id): user.username for user in review.client.users} if responses else {}
    include = {"include": "responses"} if responses else {}
    with open_http(review) as http:
        for _ in range(READS):
            offset, total = 0, 0
            while True:
                where = include | {"limit": str(PAGE), "offset": str(offset)}
                reply = checked_reply(http.get(f"/api/v1/datasets/{dataset.id}/records", params=where), "when asked for records")
                page = reply.json()
                items, total = page["items"], page["total"]
                for item in items:
                    if item["id"] not in seen:
                        seen.add(item["id"])
                        yield _read_record(item, names)
                if len(items) < PAGE:
                    break
                offset += PAGE
            if len(seen) >= total:
                return


def withdraw_records(review: ArgillaReview, dataset: Dataset, held: Iterable[Held], members: Sequence[Member]) -> Iterator[Held]:
    """Take records out of the queue of everybody who has not responded to them; each is given back when it is done.

    Args:
        review: the connection.
        dataset: where the records are.
        held: the records with their responses.
        members: who must not be asked any more.
    """
    body = {"status": "discarded", "values": {forms.COMMENT: {"value": WITHDRAWN}} if forms.COMMENT in dataset.questions else None}
    with open_http(review) as http:
        for record in held:
            given = {response.user for response in record.responses}
            for member in members:
                if member.name not in given:
                    headers = {"X-Argilla-Api-Key": member.key}
                    reply = http.post(f"/api/v1/records/{record.record}/responses", json=body, headers=headers)
                    if reply.status_code not in (403, 404, 409):  # left the workspace, deleted, or answered a moment ago
                        checked_reply(reply, "to a discarded response")
            yield record


def return_records(review: ArgillaReview, held: Iterable[Held], members: Sequence[Member]) -> Iterator[Held]:
    """Put withdrawn records back into the queue; each is given back when it is done.

    The discarded responses of ours are deleted. Argilla says what it deleted: a response that somebody gave in its place a moment before is
    put back in their name.
    """
    keys = {member.name: member.key for member in members}
    with open_http(review) as http:
        for record in held:
            for response in record.responses:
                if not response.withdrawn:
                    continue
                reply = http.delete(f"/api/v1/responses/{response.response}")
                if reply.status_code == 404:
                    continue
                gone = checked_reply(reply, "to the end of a discarded response").json()
                if not _is_withdrawal(gone["status"], gone.get("values")) and response.user in keys:
                    body = {"status": gone["status"], "values": gone["values"]}
                    headers = {"X-Argilla-Api-Key": keys[response.user]}
                    http.post(f"/api/v1/records/{record.record}/responses", json=body, headers=headers)
            yield record


def _read_record(item: Mapping[str, Any], names: Mapping[str, str]) -> Held:
    identity, given = str(item["external_id"]), []
    for response in item.get("responses") or []:
        values = {name: value.get("value") for name, value in (response.get("values") or {}).items()}
        user = names.get(str(response["user_id"]), str(response["user_id"]))
        is_ours = _is_withdrawal(response["status"], response.get("values"))
        given.append(Given(str(response["id"]), identity, user, response["status"], response["updated_at"], values, is_ours))
    return Held(str(item["id"]), identity, content_digest(item["fields"], item.get("metadata") or {}), tuple(given))


def _is_withdrawal(status: str, values: Mapping[str, Any] | None) -> bool:
    return status == "discarded" and ((values or {}).get(forms.COMMENT) or {}).get("value") == WITHDRAWN


def _restored(answers: Sequence[Answered], questions: Mapping[str, str]) -> dict[str, Any]:
    return {
        "responses": [
            {
                "user_id": answer.user_id,
                "status": answer.status,
                "values": {name: {"value": value} for name, value in answer.values.items() if name in questions and value is not None},
            }
            for answer in answers
        ]
    }


def _payload(item: Shown, questions: Mapping[str, str]) -> dict[str, Any]:
    suggestions = [{"question_id": questions[name], "value": value, "agent": "seedcorn"} for name, value in item.suggestions.items()]
    body: dict[str, Any] = {
        "external_id": item.id,
        "fields": dict(item.fields),
        "metadata": dict(item.metadata),
        "suggestions": suggestions,
    }
    return body if item.vector is None else body | {"vectors": {forms.EMBEDDING: list(item.vector)}}


def _restore_one(http: Any, path: str, item: dict[str, Any]) -> int:
    """Create one record with its responses and return their number; 0 where it exists, or the form no longer takes a response."""
    reply = _send(http, "POST", path, {"items": [item]})
    if reply.status_code == 422:
        rest = {name: value for name, value in item.items() if name != "responses"}
        checked_reply(_send(http, "PUT", path, {"items": [rest]}), "to records")
        return 0
    checked_reply(reply, "to records")
    return len(item["responses"])


def _put(http: Any, path: str, body: Mapping[str, Any]) -> None:
    checked_reply(_send(http, "PUT", path, body), "to records")


def _send(http: Any, method: str, path: str, body: Mapping[str, Any]) -> Any:
    """Send a batch. Sending it twice is harmless, so a connection that breaks is tried again."""
    import httpx
    import orjson
    from tenacity import retry, retry_if_exception_type, stop_after_attempt, wait_exponential

    content = orjson.dumps(body)

    @retry(retry=retry_if_exception_type(httpx.TransportError), stop=stop_after_attempt(4), wait=wait_exponential(0.5), reraise=True)
    def send() -> Any:
        return http.request(method, path, content=content, headers={"Content-Type": "application/json"})

    try:
        return send()
    except httpx.TransportError as error:
        raise ReviewError(f"Argilla at {http.base_url}", f"broke off while records were sent ({error})", "curate push again") from error


def _held(batch: list[Shown], sent: Future[None]) -> list[Shown]:
    sent.result()
    return batch
