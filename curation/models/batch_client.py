"""The provider's side of Message Batches: make one, wait for it, fetch what came of it, list those there are."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Callable
from datetime import datetime
from typing import Any

from curation.errors import ModelUnavailable
from curation.models import responses
from curation.models.base import ChatModel, NoReply, Reply
from curation.models.sender import RetryPolicy

_PATH = "/v1/messages/batches"


class BatchGone(ModelUnavailable):
    """The provider does not know a batch."""


class BatchApi:
    """Batches of one model, with the waits of `Patience`."""

    def __init__(self, model: ChatModel, *, patience: RetryPolicy, tell: Callable[[], None]) -> None:
        self._model, self._patience, self._tell = model, patience, tell

    async def make(self, requests: list[dict[str, Any]], *, known: set[str]) -> str | Reply:
        """Ask for a batch: its id, or the reply that refuses it. After a server's error it may be there all the same, and is looked for
        before another is made.

        Args:
            known: the ids of our earlier ones.

        Raises:
            NoReply: whether there is one is then for a later look at the list to say, where the request was `sent`.
        """
        began, keys = time.time(), {request["custom_id"] for request in requests}
        for tried in itertools.count(1):
            reply = await self._call("POST", _PATH, {"requests": requests})
            made = responses.as_object(reply.raw).get("id") if reply.status == 200 else None
            if isinstance(made, str):
                return made
            if reply.status != 200 and (reply.status in responses.THROTTLED or not responses.is_retried(reply.status)):
                return reply
            try:
                found = await self.find(keys, size=len(requests), since=began - 60, known=known)
            except NoReply as error:
                raise NoReply(error.reason, error.detail, sent=True) from error
            if found is not None or tried >= self._patience.tries:
                return found or reply
            await self._pause(tried)
        raise AssertionError("the last try returns or raises")

    async def wait(self, batch_id: str) -> None:
        """Until it has ended; looked at less and less often."""
        pause = self._patience.first_poll_s
        while True:
            reply = await self._call("GET", f"{_PATH}/{batch_id}")
            state = responses.as_object(reply.raw)
            if reply.status != 200:
                raise _refused(batch_id, reply)
            self._tell()
            if state.get("processing_status") == "ended":
                return
            await asyncio.sleep(pause)
            pause = min(pause * 1.5, self._patience.longest_poll_s)

    async def results(self, batch_id: str) -> bytes:
        """What came of it: JSON Lines in any order."""
        reply = await self._call("GET", f"{_PATH}/{batch_id}/results")
        if reply.status != 200:
            raise _refused(batch_id, reply)
        return reply.raw

    async def list(self) -> AsyncIterator[dict[str, Any]]:
        """Every batch of the account, the newest first."""
        after = ""
        while True:
            page = responses.as_object((await self._call("GET", f"{_PATH}?limit=100{after}")).raw)
            listed, last = page.get("data"), page.get("last_id")
            for found in listed if isinstance(listed, list) else []:
                if isinstance(found, dict) and isinstance(found.get("id"), str):
                    yield found
            if not page.get("has_more") or not isinstance(last, str) or after == f"&after_id={last}":
                return
            after = f"&after_id={last}"

    async def find(self, keys: set[str], *, size: int, since: float, known: set[str]) -> str | None:
        """The batch, none of those that are known, that holds any of the keys: guessed by its size and age, and sure by its results."""
        async for found in self.list():
            if found["id"] in known or _size_of(found) != size or _made_at(found) < since:
                continue
            await self.wait(found["id"])
            lines = (await self.results(found["id"])).splitlines()
            if keys & {result.key for line in lines if (result := responses.read_batch_line(line)) is not None}:
                return str(found["id"])
        return None

    async def _call(self, method: str, path: str, body: dict[str, Any] | None = None) -> Reply:
        for tried in itertools.count(1):
            try:
                reply = await self._model.request(method, path, body)
                passes = reply.status in responses.THROTTLED if method == "POST" else responses.is_retried(reply.status)
                if not passes or tried >= self._patience.tries:
                    return reply
                wait = responses.retry_after(reply.headers)
            except NoReply as error:
                if tried >= self._patience.unreachable_tries or (error.sent and method == "POST"):
                    raise
                wait = None
            await self._pause(tried, wait)
        raise AssertionError("the last try returns or raises")

    async def _pause(self, tried: int, wait: float | None = None) -> None:
        """Before the next try; longer each time, or as long as the provider asks."""
        grown: float = min(self._patience.longest_wait_s, self._patience.first_wait_s * 2.0**tried)
        await asyncio.sleep(grown if wait is None else wait)


def _size_of(batch: dict[str, Any]) -> int:
    """Return how many requests a listed batch has; -1 where it does not say."""
    counts = batch.get("request_counts")
    known = [n for n in counts.values() if type(n) is int] if isinstance(counts, dict) else []
    return sum(known) if known and len(known) == len(counts or ()) else -1


def _made_at(batch: dict[str, Any]) -> float:
    """Return when a listed batch was made (seconds); 0 where it does not say."""
    try:
        return datetime.fromisoformat(str(batch.get("created_at"))).timestamp()
    except (ValueError, OverflowError, OSError):
        return 0.0


def _refused(batch_id: str, reply: Reply) -> ModelUnavailable:
    said = " ".join(responses.describe_failure(reply))
    if reply.status in (404, 410):
        return BatchGone(f"batch {batch_id}", f"is not known with this key ({said})", "use the key it was made with and run again")
    return ModelUnavailable(f"batch {batch_id}", said, "run the same command again later")
