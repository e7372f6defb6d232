"""Group commit: what several calls want written in one turn of the event loop goes to disk in one transaction."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from curation.models.ledger import Ledger, Write

MOST_WRITES = 5000
_Waiting = tuple[Write, Callable[[Any], None], Callable[[Exception], None]]


class GroupCommit:
    """Writes to the ledger from the loop's own thread, in the order they are wanted.

    Args:
        window_s: how long a write may wait for others; each commit waits for the disk, and nothing else goes on meanwhile.
    """

    def __init__(self, ledger: Ledger, *, window_s: float = 0.0) -> None:
        self._ledger, self._window_s = ledger, window_s
        self._waiting: deque[_Waiting] = deque()
        self.commits = 0

    async def write(self, change: Write) -> Any:
        """The change's result, once the transaction that holds it is committed.

        A cancelled caller does not take its change back: what it wanted written still is.
        """
        done: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

        def tell(result: Any) -> None:
            if not done.done():
                done.set_result(result)

        def fail(error: Exception) -> None:
            if not done.done():
                done.set_exception(error)

        self.post(change, tell, fail)
        return await done

    def post(self, change: Write, then: Callable[[Any], None], fail: Callable[[Exception], None]) -> None:
        """Have the change written and go on; `then` is called with its result once it is on disk."""
        self._waiting.append((change, then, fail))
        if len(self._waiting) == 1:
            asyncio.get_running_loop().call_later(self._window_s, self._commit)

    def flush(self) -> bool:
        """Commit now what is waiting, and what comes of that; False when there was nothing."""
        was_waiting = bool(self._waiting)
        while self._waiting:
            self._commit()
        return was_waiting

    def _commit(self) -> None:
        if not self._waiting:
            return
        batch = [self._waiting.popleft() for _ in range(min(len(self._waiting), MOST_WRITES))]
        if self._waiting:
            asyncio.get_running_loop().call_soon(self._commit)
        self._commit_these(batch)

    def _commit_these(self, batch: Sequence[_Waiting]) -> Exception | None:
        """The error of a disk that takes nothing more, or None; a change that fails by itself takes no other with it."""
        try:
            with self._ledger.transaction():
                results = [change() for change, _, _ in batch]
        except Exception as error:
            if len(batch) > 1:
                return self._commit_singly(batch)
            batch[0][2](error)
            return error if self._ledger.is_refused(error) else None
        self.commits += 1
        for (_, then, _), result in zip(batch, results, strict=True):
            then(result)
        return None

    def _commit_singly(self, batch: Sequence[_Waiting]) -> Exception | None:
        full: Exception | None = None
        for one in batch:
            # On a full disk a call's start can still fit where an answer did not; that call must not go out.
            if full is None:
                full = self._commit_these([one])
            else:
                one[2](full)
        return full
