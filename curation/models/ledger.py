"""The ledger in which calls are kept: its protocol, group commit, and settlement of responses that are on disk.

`curation.store.calls.CallLedger` implements the protocol. `models` and `store` are both effects and do not import each other, so the
store's methods that a run needs are listed here. Settlement parses a stored response and records its price, at once or in a later run
after the process died in between.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple, Protocol

from curation.config.models import ModelSpec
from curation.errors import ProjectError
from curation.models import responses
from curation.models.pricing import Rates, cost_nano, find_rates
from curation.requests import Claim, OpenBatch, Recovered, Request

MAX_OVER_HELD = 20
"""A usage that costs more than this multiple of the call's upper bound is wrong: it must not use up the budget."""
MAX_WRITES = 5000
"""Writes in one transaction."""
_DEFERRED_S = 0.05
"""Longest delay of a write that is not urgent."""


class Batches(Protocol):
    """Calls that were sent together."""

    def name(self, number: int, batch_id: str) -> None: ...
    def open(self, *, model: str, simulated: bool) -> Sequence[OpenBatch]: ...
    def known_ids(self) -> set[str]: ...
    def waiting(self, number: int) -> dict[str, int]: ...
    def keep(self, number: int, results: Sequence[tuple[str, bytes | None, int | None, str, str]]) -> int: ...
    def end(self, number: int) -> int: ...
    def undo(self, number: int, *, status: int | None, reason: str, detail: str) -> None: ...


class Ledger(Protocol):
    """Calls and their states; every method is one transaction or part of the enclosing one."""

    def transaction(self) -> AbstractContextManager[None]: ...
    def is_refused(self, error: Exception) -> bool: ...
    def claim(
        self, offers: Sequence[tuple[Request, int]], *, provider: str, simulated: bool, limit: int, budget_usd: float, since: float
    ) -> Claim: ...
    def mark_sent(self, seq: int) -> None: ...
    def record_answer(self, seq: int, *, status: int, raw: bytes, request_id: str | None) -> None: ...
    def settle(
        self,
        seq: int,
        *,
        cost_nano: int | None,
        tokens: dict[str, int],
        price_date: str,
        stop_reason: str | None = None,
        refusal: str | None = None,
        failure: tuple[str, str] | None = None,
    ) -> None: ...
    def held_nano(self, seq: int) -> int: ...
    def unsettled(self, model: str) -> list[tuple[int, bytes, bool]]: ...
    def unsettled_models(self) -> list[tuple[str, str]]: ...
    def record_retry(self, seq: int, *, status: int | None, reason: str, detail: str, lost: bool, budget_usd: float) -> bool: ...
    def record_failure(self, seq: int, *, status: int | None, reason: str, detail: str, raw: bytes | None = None) -> None: ...
    def release(self, seqs: Sequence[int] | None = None) -> Recovered: ...
    def hand_over(self, seqs: Sequence[int], *, model: str, simulated: bool) -> int: ...
    @property
    def batches(self) -> Batches: ...
    def beat(self) -> None: ...
    def recover(self) -> Recovered: ...
    def spent_usd(self, *, simulated: bool | None = None) -> float: ...


Write = Callable[[], Any]
"""One change of the ledger, to be run inside a transaction."""


def settle_kept(ledger: Ledger, spec: ModelSpec) -> None:
    """Settle a model's responses that an earlier process kept and did not parse. Without a price they cost the reserved amount."""
    try:
        rates = find_rates(spec)
    except ProjectError:
        rates = None
    while left := ledger.unsettled(spec.model):
        with ledger.transaction():
            for seq, raw, in_batch in left:
                reading, cost = price_reading(responses.read_message(raw), rates, held=ledger.held_nano(seq), in_batch=in_batch)
                settle(ledger, seq, reading, cost, price_date=rates.date if rates else "no price")


def price_reading(
    reading: responses.Reading, rates: Rates | None, *, held: int, in_batch: bool = False
) -> tuple[responses.Reading, int | None]:
    """Return a parsed response and its cost; a usage that cannot be right makes it a failure at the reserved amount.

    Args:
        reading: a parsed response.
        rates: price of the model; None where it has none.
        held: upper bound of the call in nano-dollars; 0 where nothing was reserved.
        in_batch: apply the batch discount.

    Returns:
        The reading, and its cost in nano-dollars; None means the reserved amount.
    """
    if rates is None or reading.tokens is None:
        return reading, None
    cost = cost_nano(reading.tokens, rates, in_batch=in_batch)
    if not held or cost <= MAX_OVER_HELD * held:
        return reading, cost
    fact = f"its usage would cost {cost / 1e9:,.2f} USD, and the request may cost {held / 1e9:.6f} at most"
    return responses.Reading(None, stop_reason=reading.stop_reason, failure=("odd_usage", fact)), None


def settle(ledger: Ledger, seq: int, reading: responses.Reading, cost: int | None, *, price_date: str) -> None:
    """Write a parsed response to the ledger.

    Args:
        ledger: where the call is.
        seq: number of the call.
        reading: its parsed response.
        cost: in nano-dollars; None means the reserved amount.
        price_date: date of the price list.
    """
    ledger.settle(
        seq,
        cost_nano=cost,
        tokens=reading.tokens or {},
        price_date=price_date,
        stop_reason=reading.stop_reason,
        refusal=reading.refusal,
        failure=reading.failure,
    )


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
        for pending, result in zip(group, results, strict=True):
            pending.then(result)
        return None
