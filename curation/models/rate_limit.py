"""How many calls may be on their way, and when to give up: additive increase and multiplicative decrease, as TCP does it."""

from __future__ import annotations

import asyncio
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping

from curation.models.responses import tokens_left

_DECREASE = 0.7
_LOW_SHARE = 0.1
"""Below this share of any rate limit we no longer grow."""
_WINDOW = 40
_FEWEST = 20


class AdaptiveLimit:
    """Slots for calls on their way: one more after each limit's worth of successes, 0.7 of them after a 429 or 529.

    Replies to calls that left before the last decrease do not decrease again: they tell of the same jam.
    """

    def __init__(self, most: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.most, self.limit, self.in_flight = most, float(most), 0
        self._clock = clock
        self._paused_until = self._decreased = 0.0
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._closed = False

    async def enter(self) -> float | None:
        """Wait for a slot; gives the time it was taken (`slow_down` wants it back), or None once closed."""
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
        """Give the slot back."""
        self.in_flight -= 1
        self._wake()

    def close(self) -> None:
        """Nobody enters any more; those who wait are told."""
        self._closed = True
        self._wake()

    def speed_up(self, headers: Mapping[str, str]) -> None:
        """A success. Near a rate limit we stay as we are; at one we wait until it is full again."""
        left = tokens_left(headers)
        if left is not None and left[0] <= 0:
            self._paused_until = max(self._paused_until, self._clock() + left[1])
        elif left is None or left[0] > _LOW_SHARE:
            self.limit = min(self.most, self.limit + 1 / self.limit)

    def slow_down(self, *, sent: float, wait: float | None) -> None:
        """The provider is throttling; `wait` is what it asked for."""
        if sent >= self._decreased:
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
    """Opens when half of the latest tries failed: asking on would only fail more."""

    def __init__(self) -> None:
        self._latest: deque[str | None] = deque(maxlen=_WINDOW)

    def add(self, failure: str | None) -> None:
        """One try: None when it was answered, else the reason. A 429 is no failure but a request to slow down."""
        self._latest.append(failure)

    def describe_opening(self) -> str | None:
        """The sentence, once it is open."""
        failed = Counter(reason for reason in self._latest if reason is not None)
        if len(self._latest) < _FEWEST or failed.total() * 2 < len(self._latest):
            return None
        reasons = ", ".join(f"{reason} ({n})" for reason, n in failed.most_common(3))
        return f"{failed.total()} of the last {len(self._latest)} tries failed: {reasons}"
