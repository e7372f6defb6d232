"""Group commit: what several calls want written in one turn of the event loop goes to disk in one transaction."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any

from curation.models.ledger import Ledger, Write

MOST_WRITES = 5000


class GroupCommit:
    """Writes to the ledger from the loop's own thread; `write` returns when the change is on disk."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._waiting: deque[tuple[Write, asyncio.Future[Any]]] = deque()
        self.commits = 0

    async def write(self, change: Write) -> Any:
        """The change's result, once the transaction that holds it is committed.

        A cancelled caller does not take its change back: what it wanted written still is.
        """
        loop = asyncio.get_running_loop()
        done: asyncio.Future[Any] = loop.create_future()
        self._waiting.append((change, done))
        if len(self._waiting) == 1:
            loop.call_soon(self._commit)
        return await done

    def flush(self) -> None:
        """Commit now what is waiting."""
        while self._waiting:
            self._commit()

    def _commit(self) -> None:
        if not self._waiting:
            return
        batch = [self._waiting.popleft() for _ in range(min(len(self._waiting), MOST_WRITES))]
        if self._waiting:
            asyncio.get_running_loop().call_soon(self._commit)
        try:
            with self._ledger.transaction():
                results = [change() for change, _ in batch]
        except Exception as error:
            for _, done in batch:
                if not done.done():
                    done.set_exception(error)
            return
        self.commits += 1
        for (_, done), result in zip(batch, results, strict=True):
            if not done.done():
                done.set_result(result)
