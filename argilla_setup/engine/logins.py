"""Limits on failed log-ins: OWASP's three counters (name and address, name, address), as sliding windows in this process's memory.

Only failures count, so a team behind one proxy is not locked out by logging in. A name's own limit does not hold for addresses at which the
person has logged in before; guesses from elsewhere cannot lock them out there.
"""

from __future__ import annotations

import ipaddress
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Limit:
    """So many failures within so many seconds."""

    failures: int
    seconds: float


PER_PERSON = Limit(10, 300.0)
"""One name from one address."""
PER_NAME = Limit(50, 900.0)
"""One name from all addresses at which that person has not logged in since the server started."""
PER_ADDRESS = Limit(100, 300.0)
"""All names from one address: twenty people who each mistype four times within five minutes are still let in."""
MOST_KEYS = 20_000
"""Counters that are kept; the least recently used one is dropped first."""
LONGEST_NAME = 200


class LoginLimiter:
    """Counts failed log-ins and says how long the next attempt must wait."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._failures: OrderedDict[tuple[str, str], deque[float]] = OrderedDict()
        self._known: OrderedDict[tuple[str, str], None] = OrderedDict()

    def begin(self, name: str, address: str) -> float:
        """Count an attempt as failed until `succeed`, or return the seconds to wait when a limit is reached.

        Attempts count from their beginning, so that many at once do not get past a limit while their passwords are being checked.
        """
        now = self._clock()
        wait = max(self._wait(key, limit, now) for key, limit in self._counters(name, address))
        if wait <= 0:
            for key, _ in self._counters(name, address):
                self._window(key).append(now)
        return max(wait, 0.0)

    def succeed(self, name: str, address: str) -> None:
        """Take back the attempt that `begin` counted, forget the person's earlier failures there, and remember the address."""
        for key, limit in self._counters(name, address):
            window = self._window(key)
            if limit is PER_PERSON:
                window.clear()
            elif window:
                window.pop()
        self._known[(name[:LONGEST_NAME], network_of(address))] = None
        while len(self._known) > MOST_KEYS:
            self._known.popitem(last=False)

    def _counters(self, name: str, address: str) -> list[tuple[tuple[str, str], Limit]]:
        name, network = name[:LONGEST_NAME], network_of(address)
        counters = [((name, network), PER_PERSON), (("", network), PER_ADDRESS)]
        return counters if (name, network) in self._known else [*counters, ((name, ""), PER_NAME)]

    def _wait(self, key: tuple[str, str], limit: Limit, now: float) -> float:
        window = self._window(key)
        while window and window[0] <= now - limit.seconds:
            window.popleft()
        return window[-limit.failures] + limit.seconds - now if len(window) >= limit.failures else 0.0

    def _window(self, key: tuple[str, str]) -> deque[float]:
        window = self._failures.setdefault(key, deque())
        self._failures.move_to_end(key)
        while len(self._failures) > MOST_KEYS:
            self._failures.popitem(last=False)
        return window


def network_of(address: str) -> str:
    """Return the address, or the /64 network of an IPv6 address: one person is usually given all of it."""
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return address
    if isinstance(found, ipaddress.IPv6Address):
        return str(found.ipv4_mapped or ipaddress.ip_network((found, 64), strict=False))
    return str(found)
