"""Adaptive concurrency and a circuit breaker for calls to one model.

Concurrency follows TCP's congestion control: additive increase after successes, multiplicative decrease when the provider throttles
(Chiu and Jain 1989).
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping

from curation.models.responses import tokens_left

_DECREASE = 0.7
"""As in TCP CUBIC (RFC 9438)."""
_LOW_SHARE = 0.1
"""Remaining share of a rate limit below which concurrency no longer grows."""
_WINDOW = 40
_FEWEST = 20


class AdaptiveLimit:
    """Slots for calls in flight: one more after each `limit` successes, times 0.7 after a 429 or 529.

    Responses to calls that were sent before the last decrease do not decrease again: they report the same congestion.
    """

    def __init__(self, most: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.most, self.limit, self.in_flight = most, float(most), 0
        self._clock = clock
        self._paused_until = self._decreased = 0.0
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._closed = False

    async def enter(self) -> float | None:
        """Wait for a slot; return the time at which it was taken (for `slow_down`), or None once closed."""
        loop = asyncio.get_running_loop()
        while not self._closed:
            pause = self._paused_until - self._clock()
            if pause <= 0 and self.in_flight < int(self.limit):
                self.in_flight += 1
                return self._clock()
            waiter = loop.create_future()
            self._waiting.append(waiter)
            if pause > 0:
                loop.call_later(pause, self._wake)
            await waiter
        return None

    def leave(self) -> None:
        """Free the slot."""
        self.in_flight -= 1
        self._wake()

    def close(self) -> None:
        """Admit no more calls, and wake those that wait."""
        self._closed = True
        self._wake()

    def speed_up(self, headers: Mapping[str, str]) -> None:
        """Count a success. Near a rate limit concurrency stays as it is; at the limit calls pause until it resets."""
        left = tokens_left(headers)
        if left is not None and left[0] <= 0:
            self._paused_until = max(self._paused_until, self._clock() + left[1])
        elif left is None or left[0] > _LOW_SHARE:
            self.limit = min(self.most, self.limit + 1 / self.limit)

    def slow_down(self, *, entered: float, wait: float | None) -> None:
        """Reduce the concurrency because the provider throttles.

        Args:
            entered: when the throttled call took its slot.
            wait: seconds that the provider asks to wait.
        """
        if entered >= self._decreased:
            self.limit = max(1.0, self.limit * _DECREASE)
            self._decreased = self._clock()
        if wait is not None:
            self._paused_until = max(self._paused_until, self._clock() + wait)

    def _wake(self) -> None:
        free = len(self._waiting) if self._closed else int(self.limit) - self.in_flight
        while free > 0 and self._waiting:
            waiter = self._waiting.popleft()
            if not waiter.done():
                waiter.set_result(None)
                free -= 1


class Circuit:
    """Circuit breaker: opens when half of the latest tries failed, because further calls would fail too."""

    def __init__(self) -> None:
        self._latest: deque[str | None] = deque(maxlen=_WINDOW)

    def add(self, failure: str | None) -> None:
        """Add one try: the reason of its failure, or None when it was answered. A 429 is not a failure."""
        self._latest.append(failure)

    def describe_opening(self) -> str | None:
        """Return the counts of the failures once the circuit is open, else None."""
        failed = Counter(reason for reason in self._latest if reason is not None)
        if len(self._latest) < _FEWEST or failed.total() * 2 < len(self._latest):
            return None
        reasons = ", ".join(f"{reason} ({n})" for reason, n in failed.most_common(3))
        return f"{failed.total()} of the last {len(self._latest)} tries failed: {reasons}"
