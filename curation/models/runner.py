"""Send the requests of a stage to a model, and keep every response before it is parsed.

A feeder claims calls in the ledger a few at a time, and workers send them within an adaptive limit. The state of a call is on disk before
and after each step, so a kill at any moment loses no response that arrived; calls in flight, at most `concurrency`, are charged at their
upper bound.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sized
from functools import partial

from curation.errors import ModelUnavailable
from curation.models.context import AskSummary, CallContext
from curation.models.ledger import settle_kept
from curation.models.pricing import bound_nano, find_rates, is_priced
from curation.models.sender import Sender, StopRun, budget_reached
from curation.requests import Claim, ClaimedCall, Request

HEARTBEAT_S = 20.0
_LOOK_AHEAD = 256
"""Requests taken from the caller before they can be claimed."""
_POLL_S = 0.25
"""Pause between looks at calls that another process has in flight."""
_REPORT_S = 0.2
"""Shortest pause between two progress reports."""


async def ask_async(requests: Iterable[Request], context: CallContext) -> AskSummary:
    """Send the requests, as `ask` does, inside a running event loop; the ledger is used from its thread."""
    return await _Run(requests, context).run()


class _Run:
    def __init__(self, requests: Iterable[Request], context: CallContext) -> None:
        self.requests, self.total = iter(requests), len(requests) if isinstance(requests, Sized) else None
        self.context, self.spec, self.ledger, self.rates = context, context.spec, context.ledger, find_rates(context.spec)
        # Wall time for the ledger, which other processes read; monotonic time for durations.
        self.since, self.began, self.reported = time.time(), time.monotonic(), 0.0
        self.ahead: deque[tuple[Request, int]] = deque()
        self.elsewhere: list[tuple[Request, int]] = []
        self.pending = 0  # claimed by us and not ended
        self.stopped_by: BaseException | None = None
        self.queue: asyncio.Queue[ClaimedCall | None] = asyncio.Queue()
        self.moved, self.stopping = asyncio.Event(), asyncio.Event()
        self.sender = Sender(context, stopping=self.stopping, stop=self._stop)

    async def run(self) -> AskSummary:
        self._recover()
        settle_kept(self.ledger, self.spec)
        with self._interruptible():
            tasks = [asyncio.create_task(self._work()) for _ in range(self.spec.concurrency)]
            heartbeat = asyncio.create_task(self._heartbeat())
            try:
                # Two levels: an error of the feeder stops the run in order, a cancellation (second Ctrl-C) stops it at once.
                try:
                    await self._feed()
                except Exception as error:  # from the caller's requests or the ledger: calls in flight are kept before the run ends
                    self._stop(error)
                for _ in tasks:
                    self.queue.put_nowait(None)
                await asyncio.gather(*tasks)
            except asyncio.CancelledError:
                if self.stopped_by is None:
                    raise
            finally:
                for task in (heartbeat, *tasks):
                    task.cancel()
                await asyncio.gather(heartbeat, *tasks, return_exceptions=True)
                # In this order: answers that wait for their commit are written before the remaining calls are given up.
                self.sender.commit.flush()
                self.sender.tally.uncertain += self.ledger.release().uncertain
                await self.context.model.close()
        self._report(always=True)
        tally = self.sender.tally
        if isinstance(self.stopped_by, KeyboardInterrupt):  # raised only now, when the calls in flight have ended
            total = "" if self.total is None else f" of {self.total}"
            raise KeyboardInterrupt(
                f"stopped after {tally.answered + tally.reused}{total} answers, all kept; run the same command again to continue"
            )
        if self.stopped_by is not None:
            raise self.stopped_by
        return tally.summary()

    async def _feed(self) -> None:
        """Claim calls as the workers need them, then wait for those that another process has in flight."""
        while not self.stopping.is_set():
            while len(self.ahead) < _LOOK_AHEAD and (request := next(self.requests, None)) is not None:
                self.ahead.append((request, bound_nano(request, self.rates) if is_priced(request, self.rates) else 0))
            if not self.ahead:
                if not self.elsewhere:
                    return
                await self._wait(_POLL_S)
                self._recover()
                if self.ledger.batches.open(model=self.spec.model, simulated=self.context.simulated):
                    raise ModelUnavailable(f"{len(self.elsewhere)} calls", "are in a batch of another process", "run again to wait for it")
                self.ahead, self.elsewhere = deque(self.elsewhere), []
            # Claim in halves of the concurrency: few transactions, and little is left reserved if the process dies.
            room = self.spec.concurrency - self.queue.qsize()
            if room * 2 < self.spec.concurrency:
                await self._wait()
                continue
            await self._claim(room)
            self._report()
            await asyncio.sleep(0)  # let the workers start

    async def _claim(self, room: int) -> None:
        offers = list(self.ahead)
        change = partial(self.ledger.claim, offers, provider=self.spec.provider, simulated=self.context.simulated, limit=room)
        budget = self.context.budget_usd
        claim: Claim = await self.sender.commit.write(partial(change, budget_usd=budget, since=self.since))
        self.ahead = deque(offers[claim.looked_at :])
        self.elsewhere += [offers[place] for place in claim.elsewhere]
        self.sender.tally.reused += claim.reused
        self.sender.tally.failed += claim.failed
        self.pending += len(claim.calls)
        for call in claim.calls:
            self.queue.put_nowait(call)
        if not claim.over_budget:
            return
        # A call in flight, or one whose settlement is not written yet, costs less than is reserved for it; then there may be room.
        if self.pending:
            await self._wait()
        elif not self.sender.commit.flush():
            self._stop(budget_reached(budget))

    async def _work(self) -> None:
        while (call := await self.queue.get()) is not None and not self.stopping.is_set():
            try:
                await self.sender.send(call)
            except StopRun as stop:
                self._stop(stop.error)
            except Exception as error:  # a bug or a failing disk: ends the run after the calls in flight are kept
                self._stop(error)
            self.pending -= 1
            self.moved.set()
            self._report()

    async def _wait(self, seconds: float | None = None) -> None:
        """Wait until a call ends, the run stops, or the time is over."""
        self.moved.clear()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.moved.wait(), seconds)

    async def _heartbeat(self) -> None:
        while True:
            await asyncio.sleep(HEARTBEAT_S)
            await self.sender.commit.write(self.ledger.beat)

    def _recover(self) -> None:
        """Take over what dead processes held."""
        self.sender.tally.uncertain += self.ledger.recover().uncertain

    def _stop(self, error: BaseException | None) -> None:
        """Send no more calls. The first reason is the one that is raised."""
        self.stopped_by = self.stopped_by or error
        self.stopping.set()
        self.sender.limit.close()
        self.moved.set()

    def _report(self, *, always: bool = False) -> None:
        now = time.monotonic()
        if self.context.progress is not None and (always or now - self.reported >= _REPORT_S):
            self.reported = now
            in_flight = self.sender.limit.in_flight
            self.context.progress(self.sender.tally.progress(total=self.total, in_flight=in_flight, seconds=now - self.began))

    @contextlib.contextmanager
    def _interruptible(self) -> Iterator[None]:
        """Let calls in flight finish after Ctrl-C; a second Ctrl-C cancels them."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        loop, task, before = asyncio.get_running_loop(), asyncio.current_task(), signal.getsignal(signal.SIGINT)

        def interrupt() -> None:
            if self.stopping.is_set() and task is not None:
                task.cancel()
            self._stop(KeyboardInterrupt())

        # Without a handler of its own, asyncio.run cancels the main task at the first Ctrl-C and loses the responses in flight.
        loop.add_signal_handler(signal.SIGINT, interrupt)
        try:
            yield
        finally:
            loop.remove_signal_handler(signal.SIGINT)
            signal.signal(signal.SIGINT, before)
