"""What `ask` needs of the place where calls are kept; `curation.store.calls.CallLedger` is it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

from curation.requests import Request


class Held(Protocol):
    """A call that is ours to send."""

    @property
    def seq(self) -> int: ...
    @property
    def request(self) -> Request: ...
    @property
    def held_nano(self) -> int: ...


class Claimed(Protocol):
    """What became of the requests that were offered."""

    @property
    def calls(self) -> Sequence[Held]: ...
    @property
    def looked_at(self) -> int: ...
    @property
    def reused(self) -> int: ...
    @property
    def failed(self) -> int: ...
    @property
    def elsewhere(self) -> Sequence[int]: ...
    @property
    def over_budget(self) -> bool: ...


class Left(Protocol):
    """What was given back."""

    @property
    def uncertain(self) -> int: ...
    @property
    def freed(self) -> int: ...


class Ledger(Protocol):
    """Calls and their states; every method is one transaction or part of the one around it."""

    def transaction(self) -> AbstractContextManager[None]: ...
    def claim(
        self, offers: Sequence[tuple[Request, int]], *, provider: str, simulated: bool, limit: int, budget_usd: float, since: float
    ) -> Claimed: ...
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
    def unsettled(self, model: str) -> list[tuple[int, bytes]]: ...
    def record_retry(self, seq: int, *, status: int | None, reason: str, detail: str, lost: bool, budget_usd: float) -> bool: ...
    def record_failure(self, seq: int, *, status: int | None, reason: str, detail: str, raw: bytes | None = None) -> None: ...
    def release(self, seqs: Sequence[int] | None = None) -> Left: ...
    def beat(self) -> None: ...
    def recover(self) -> Left: ...
    def spent_usd(self, *, simulated: bool | None = None) -> float: ...


Write = Callable[[], Any]
"""One change of the ledger, to be run inside a transaction."""
