"""Group commit: what several calls want written in one turn of the event loop goes to disk in one transaction."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from curation.models.ledger import Ledger, Write

MOST_WRITES = 5000
_NO_HURRY_S = 0.05
_Waiting = tuple[Write, Callable[[Any], None], Callable[[Exception], None]]


class GroupCommit:
    """Writes to the ledger from the loop's own thread, in the order they are wanted.

    Nothing goes on while the disk is waited for, so what arrives meanwhile is ready together and committed together: the slower the
    disk, the larger the groups. Waiting longer than a turn for company costs more than it saves (bursts of calls that start at once).
    """

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._waiting: deque[_Waiting] = deque()
        self._soon = False
        """The loop's next turn commits them; else a timer does."""
        self._later: asyncio.TimerHandle | None = None
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

    def post(self, change: Write, then: Callable[[Any], None], fail: Callable[[Exception], None], *, hurry: bool = True) -> None:
        """Have the change written and go on; `then` is called with its result once it is on disk.

        Args:
            hurry: commit in the loop's next turn; else with the next change that is in a hurry, or after a while.
        """
        self._waiting.append((change, then, fail))
        if self._soon:
            return
        if hurry:
            self._soon = True
            asyncio.get_running_loop().call_soon(self._commit)
        elif self._later is None:
            self._later = asyncio.get_running_loop().call_later(_NO_HURRY_S, self._commit)

    def flush(self) -> bool:
        """Commit now what is waiting, and what comes of that; False when there was nothing."""
        was_waiting = bool(self._waiting)
        while self._waiting:
            self._commit()
        return was_waiting

    def _commit(self) -> None:
        if self._later is not None:
            self._later.cancel()
        self._soon, self._later = False, None
        if not self._waiting:
            return
        batch = [self._waiting.popleft() for _ in range(min(len(self._waiting), MOST_WRITES))]
        if self._waiting:
            self._soon = True
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
