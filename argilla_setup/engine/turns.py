"""Writers take turns, and people come first: an answer never waits for more than the one request of a push that is under way.

SQLite lets one writer in at a time and makes the others knock again and again, at ever longer intervals; who knocks while a push runs
misses the short gaps between its requests. Here they wait in line instead, where the next one is woken at once.
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
PATIENCE = 10.0
"""Seconds after which records go before people's answers, so that a push comes to an end however many people answer."""
_Line = deque[tuple[float, asyncio.Future[None]]]


class Turns:
    """Lets one in at a time: people in their order, then the others in theirs."""

    def __init__(self, *, patience: float = PATIENCE) -> None:
        self._patience = patience
        self._taken = False
        self._people: _Line = deque()
        self._others: _Line = deque()

    @asynccontextmanager
    async def turn(self, *, person: bool) -> AsyncIterator[None]:
        """Wait for a turn and keep it for as long as the block lasts."""
        await self._wait(self._people if person else self._others)
        try:
            yield
        finally:
            self._pass_on()

    async def _wait(self, line: _Line) -> None:
        if not self._taken:
            self._taken = True
            return
        mine: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        line.append((time.monotonic(), mine))
        try:
            await mine
        except asyncio.CancelledError:
            if mine.done() and not mine.cancelled():
                self._pass_on()  # the turn came in the very moment of giving up
            raise

    def _pass_on(self) -> None:
        overdue = self._others and time.monotonic() - self._others[0][0] > self._patience
        for line in (self._others, self._people) if overdue else (self._people, self._others):
            while line:
                _, waiting = line.popleft()
                if not waiting.done():
                    waiting.set_result(None)
                    return
        self._taken = False


class TakeTurns:
    """ASGI middleware that lines up what writes records and answers; everything else passes."""

    def __init__(self, app: Any, *, turns: Turns | None = None) -> None:
        self.app = app
        self.turns = turns or Turns()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        writes = scope["type"] == "http" and scope["method"] in ("POST", "PUT", "PATCH", "DELETE")
        person = writes and ANSWER.search(scope["path"]) is not None
        if not person and not (writes and RECORDS.search(scope["path"])):
            await self.app(scope, receive, send)
            return
        async with self.turns.turn(person=person):
            await self.app(scope, receive, send)
