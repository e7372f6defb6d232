"""People come before a push: records are written when nobody's answer is under way, and an answer waits for one such request at most.

SQLite lets one writer in at a time and makes the others knock again and again, at ever longer intervals; who knocks while a push runs
misses the short gaps between its requests. Here they wait in line instead, where they are woken at once. Two answers may be under way
together: while one computes, the other writes. More of them would only prolong one another's hold on the database (measured: with all of
twenty people's answers let in at once the slowest twentieth took half as long again). A turn begins when the whole request is here, so
nobody waits for somebody else's slow line.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

ANSWER = re.compile(r"/(records/[^/]+/responses|responses/[^/]+|me/responses/bulk)/?$")
RECORDS = re.compile(r"/datasets/[^/]+/records(/bulk)?/?$")
TOGETHER = 2
"""Answers that are under way at once."""
PATIENCE = 0.5
"""Seconds after which records go before new answers, so that a push comes to an end however many people answer."""


class Turns:
    """Lets people in a few at a time, and what pushes alone."""

    def __init__(self, *, patience: float = PATIENCE) -> None:
        self._patience = patience
        self._people_inside = 0
        self._push_inside = False
        self._people = deque[asyncio.Future[None]]()
        self._pushes = deque[tuple[float, asyncio.Future[None]]]()

    @asynccontextmanager
    async def turn(self, *, person: bool) -> AsyncIterator[None]:
        """Wait for a turn and keep it for as long as the block lasts."""
        mine: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if person:
            self._people.append(mine)
        else:
            self._pushes.append((time.monotonic(), mine))
        self._let_in()
        try:
            await mine
        except asyncio.CancelledError:
            if mine.done() and not mine.cancelled():  # the turn came in the very moment of giving up
                self._leave(person=person)
            raise
        try:
            yield
        finally:
            self._leave(person=person)

    def _leave(self, *, person: bool) -> None:
        if person:
            self._people_inside -= 1
        else:
            self._push_inside = False
        self._let_in()

    def _let_in(self) -> None:
        while self._people and self._people[0].done():
            self._people.popleft()
        while self._pushes and self._pushes[0][1].done():
            self._pushes.popleft()
        if self._push_inside:
            return
        overdue = bool(self._pushes) and time.monotonic() - self._pushes[0][0] > self._patience
        if self._people and not overdue:
            while self._people and self._people_inside < TOGETHER:
                waiting = self._people.popleft()
                if not waiting.done():
                    waiting.set_result(None)
                    self._people_inside += 1
        elif self._pushes and not self._people_inside:
            self._pushes.popleft()[1].set_result(None)
            self._push_inside = True


class TakeTurns:
    """ASGI middleware that keeps pushed records and people's answers apart; everything else passes."""

    def __init__(self, app: Any, *, turns: Turns | None = None) -> None:
        self.app = app
        self.turns = turns or Turns()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        writes = scope["type"] == "http" and scope["method"] in ("POST", "PUT", "PATCH", "DELETE")
        person = writes and ANSWER.search(scope["path"]) is not None
        if not person and not (writes and RECORDS.search(scope["path"])):
            await self.app(scope, receive, send)
            return
        receive = await _received(receive)
        async with self.turns.turn(person=person):
            await self.app(scope, receive, send)


async def _received(receive: Any) -> Any:
    """A `receive` that gives again what came until the request was whole, and then what comes after it."""
    came = deque([await receive()])
    while came[-1].get("more_body"):
        came.append(await receive())

    async def receive_again() -> Any:
        return came.popleft() if came else await receive()

    return receive_again
