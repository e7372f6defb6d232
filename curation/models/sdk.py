"""What the clients of both providers share, being generated from one mould: a request is tried once, and any status is a reply.

There is a client for every few calls on their way. The pool inside a client looks at all its connections whenever a request comes
or goes, and asks the system about each idle one: with 64 connections in one pool that was a third of all that a call costs us.
"""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from curation.models.client import NoReply, Reply, no_reply, reply_of

CALLS_EACH = 4
"""Calls on their way by one client; there are as many clients as that needs."""


@dataclass
class _Lent:
    client: Any
    calls: int = 0


class SdkClients:
    """The clients of one address, opened as they are needed.

    Args:
        sdk: the module they come from, imported when the first is opened.
        make: opens one.
    """

    def __init__(self, sdk: str, make: Callable[[], Any]) -> None:
        self._sdk, self._make, self._clients = sdk, make, list[_Lent]()

    async def request(self, method: str, path: str, body: dict[str, Any] | None = None, *, within_s: float | None = None) -> Reply:
        """One request, tried once.

        Args:
            within_s: for the whole reply; the clients' own limit begins anew with every byte.
        """
        import httpx2

        sdk = importlib.import_module(self._sdk)
        with self._lend() as client:
            try:
                async with asyncio.timeout(within_s):
                    if method == "GET":
                        return reply_of(await client.get(path, cast_to=httpx2.Response))
                    return reply_of(await client.post(path, body=body, cast_to=httpx2.Response))
            except TimeoutError as error:
                raise NoReply("timeout", f"no whole reply within {within_s:g} s", sent=True) from error
            except sdk.APIStatusError as error:
                return reply_of(error.response)
            except sdk.APIConnectionError as error:
                raise no_reply(error) from error

    async def close(self) -> None:
        """Give back the connections; a later request opens new clients."""
        clients, self._clients = self._clients, []
        await asyncio.gather(*(lent.client.close() for lent in clients))

    @contextmanager
    def _lend(self) -> Iterator[Any]:
        """The first client with room."""
        lent = next((lent for lent in self._clients if lent.calls < CALLS_EACH), None)
        if lent is None:
            lent = _Lent(self._make())
            self._clients.append(lent)
        lent.calls += 1
        try:
            yield lent.client
        finally:
            lent.calls -= 1
