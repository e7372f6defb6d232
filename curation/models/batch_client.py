"""HTTP client of the Message Batches API: create a batch, poll it, fetch its results, list the account's batches."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Callable
from datetime import datetime
from typing import Any

from curation.errors import ModelUnavailable
from curation.models import responses
from curation.models.base import ChatModel, NoResponse, Response
from curation.models.context import RetryPolicy

_PATH = "/v1/messages/batches"
_CLOCK_SKEW_S = 60
"""A batch that the provider dates up to this long before our request may be ours."""


class BatchGone(ModelUnavailable):
    """The provider does not know a batch."""


class BatchApi:
    """Batches of one model.

    Args:
        model: the client.
        retries: waits between tries and between polls.
        report: called after each poll.
    """

    def __init__(self, model: ChatModel, *, retries: RetryPolicy, report: Callable[[], None]) -> None:
        self._model, self._retries, self._report = model, retries, report

    async def create(self, requests: list[dict[str, Any]], *, known: set[str]) -> str | Response:
        """Create a batch; return its id, or the response that refuses it.

        After a server error the batch may exist all the same, so the list is searched for it before another is created: a batch that is
        created twice is paid twice.

        Args:
            requests: each with `custom_id` and `params`.
            known: ids of our earlier batches.

        Raises:
            NoResponse: with `sent`, a later search of the list decides whether the batch exists.
        """
        began, keys = time.time(), {request["custom_id"] for request in requests}
        for tried in itertools.count(1):
            response = await self._call("POST", _PATH, {"requests": requests})
            created = responses.as_object(response.raw).get("id") if response.status == 200 else None
            if isinstance(created, str):
                return created
            if response.status != 200 and (response.status in responses.THROTTLED or not responses.is_retried(response.status)):
                return response
            # A 5xx, or a 200 without an id, says nothing about whether the batch was created.
            try:
                found = await self.find(keys, size=len(requests), created=began, known=known)
            except NoResponse as error:
                raise NoResponse(error.reason, error.detail, sent=True) from error
            if found is not None or tried >= self._retries.tries:
                return found or response
            await self._pause(tried)
        raise AssertionError("the last try returns or raises")

    async def wait(self, batch_id: str) -> None:
        """Poll a batch, at growing intervals, until it has ended."""
        pause = self._retries.first_poll_s
        while True:
            response = await self._call("GET", f"{_PATH}/{batch_id}")
            state = responses.as_object(response.raw)
            if response.status != 200:
                raise _refused(batch_id, response)
            self._report()
            if state.get("processing_status") == "ended":
                return
            await asyncio.sleep(pause)
            pause = min(pause * 1.5, self._retries.longest_poll_s)

    async def results(self, batch_id: str) -> bytes:
        """Return the results: JSON Lines in any order."""
        response = await self._call("GET", f"{_PATH}/{batch_id}/results")
        if response.status != 200:
            raise _refused(batch_id, response)
        return response.raw

    async def list(self) -> AsyncIterator[dict[str, Any]]:
        """Yield every batch of the account, newest first."""
        after = ""
        while True:
            page = responses.as_object((await self._call("GET", f"{_PATH}?limit=100{after}")).raw)
            listed, last = page.get("data"), page.get("last_id")
            for found in listed if isinstance(listed, list) else []:
                if isinstance(found, dict) and isinstance(found.get("id"), str):
                    yield found
            # A server that repeats a page must not keep us here for ever.
            if not page.get("has_more") or not isinstance(last, str) or after == f"&after_id={last}":
                return
            after = f"&after_id={last}"

    async def find(self, keys: set[str], *, size: int, created: float, known: set[str]) -> str | None:
        """Return the id of the batch that holds any of the keys.

        Candidates are chosen by size and age; their results, which carry the keys, decide.

        Args:
            keys: `custom_id` of its requests.
            size: number of its requests.
            created: when it was sent (seconds since the epoch).
            known: ids of our other batches, which are skipped.
        """
        # The list has no custom_id, and an account may have thousands of batches, so size and age preselect.
        async for found in self.list():
            if found["id"] in known or _size_of(found) != size or _created_at(found) < created - _CLOCK_SKEW_S:
                continue
            await self.wait(found["id"])
            lines = (await self.results(found["id"])).splitlines()
            if keys & {result.key for line in lines if (result := responses.read_batch_line(line)) is not None}:
                return str(found["id"])
        return None

    async def _call(self, method: str, path: str, body: dict[str, Any] | None = None) -> Response:
        """Send a request, with retries of what may pass; a POST is repeated only where it cannot have created a batch."""
        for tried in itertools.count(1):
            try:
                response = await self._model.request(method, path, body)
                may_pass = response.status in responses.THROTTLED if method == "POST" else responses.is_retried(response.status)
                if not may_pass or tried >= self._retries.tries:
                    return response
                wait = responses.retry_after(response.headers)
            except NoResponse as error:
                if tried >= self._retries.unreachable_tries or (error.sent and method == "POST"):
                    raise
                wait = None
            await self._pause(tried, wait)
        raise AssertionError("the last try returns or raises")

    async def _pause(self, tried: int, wait: float | None = None) -> None:
        """Wait before the next try: exponential backoff, or as long as the provider asks."""
        backoff: float = min(self._retries.longest_wait_s, self._retries.first_wait_s * 2.0**tried)
        await asyncio.sleep(backoff if wait is None else wait)


def _size_of(batch: dict[str, Any]) -> int:
    """Return how many requests a listed batch has; -1 where it does not say."""
    counts = batch.get("request_counts")
    known = [n for n in counts.values() if type(n) is int] if isinstance(counts, dict) else []
    return sum(known) if known and len(known) == len(counts or ()) else -1


def _created_at(batch: dict[str, Any]) -> float:
    """Return when a listed batch was created (seconds since the epoch); 0 where it does not say."""
    try:
        return datetime.fromisoformat(str(batch.get("created_at"))).timestamp()
    except (ValueError, OverflowError, OSError):
        return 0.0


def _refused(batch_id: str, response: Response) -> ModelUnavailable:
    detail = " ".join(responses.describe_failure(response))
    if response.status in (404, 410):
        return BatchGone(f"batch {batch_id}", f"is not known with this key ({detail})", "use the key it was created with and run again")
    return ModelUnavailable(f"batch {batch_id}", detail, "run the same command again later")
