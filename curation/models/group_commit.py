"""Group commit: ledger writes that are requested in one turn of the event loop go to disk in one transaction."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from curation.models.ledger import Ledger, Write

MAX_WRITES = 5000
_DEFERRED_S = 0.05


class _Pending(NamedTuple):
    change: Write
    then: Callable[[Any], None]
    fail: Callable[[Exception], None]


class GroupCommit:
    """Writes to the ledger from the event loop's thread, in the order of the requests.

    The loop blocks while a transaction is committed, so whatever arrives meanwhile is committed together in the next one: the slower the
    disk, the larger the groups. Delaying a commit to collect more writes costs more than it saves, because calls then start in bursts.
    """

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._waiting: deque[_Pending] = deque()
        self._is_scheduled = False
        """The loop's next turn commits; otherwise a timer may be set."""
        self._timer: asyncio.TimerHandle | None = None
        self.commits = 0

    async def write(self, change: Write) -> Any:
        """Return the change's result after the transaction that holds it is committed.

        A cancelled caller does not withdraw its change.
        """
        done: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

        def resolve(result: Any) -> None:
            if not done.done():  # the caller may have been cancelled meanwhile
                done.set_result(result)

        def fail(error: Exception) -> None:
            if not done.done():
                done.set_exception(error)

        self.post(change, resolve, fail)
        return await done

    def post(self, change: Write, then: Callable[[Any], None], fail: Callable[[Exception], None], *, hurry: bool = True) -> None:
        """Queue a change and return.

        Args:
            change: the write.
            then: called with the change's result once it is on disk.
            fail: called with the error if it was not written.
            hurry: commit in the loop's next turn; otherwise with the next urgent change, or after 50 ms.
        """
        self._waiting.append(_Pending(change, then, fail))
        if self._is_scheduled:
            return
        if hurry:
            self._is_scheduled = True
            asyncio.get_running_loop().call_soon(self._commit)
        elif self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(_DEFERRED_S, self._commit)

    def flush(self) -> bool:
        """Commit all queued changes and those that their callbacks queue; return False when there were none."""
        was_waiting = bool(self._waiting)
        while self._waiting:
            self._commit()
        return was_waiting

    def _commit(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._is_scheduled, self._timer = False, None
        if not self._waiting:
            return
        group = [self._waiting.popleft() for _ in range(min(len(self._waiting), MAX_WRITES))]
        if self._waiting:
            self._is_scheduled = True
            asyncio.get_running_loop().call_soon(self._commit)
        error = self._commit_group(group)
        if error is None:
            return
        if len(group) == 1:
            group[0].fail(error)
            return
        # One change may be at fault, and must not take the others with it.
        disk_error: Exception | None = None
        for pending in group:
            # On a full disk a call's start can still fit where an answer did not; that call must not be sent.
            if disk_error is not None:
                pending.fail(disk_error)
            elif (error := self._commit_group([pending])) is not None:
                pending.fail(error)
                disk_error = error if self._ledger.is_refused(error) else None

    def _commit_group(self, group: Sequence[_Pending]) -> Exception | None:
        """Return the error of a group that was rolled back; None once it is committed and the callbacks have run."""
        try:
            with self._ledger.transaction():
                results = [pending.change() for pending in group]
        except Exception as error:
            return error
        self.commits += 1
        for pending, result in zip(group, results, strict=True):
            pending.then(result)
        return None
