"""Ask a model everything a stage wants to know, and keep every response before anyone looks at it.

A feeder claims calls in the ledger a few at a time, workers send them within an adaptive limit. The state of a call is on disk
before and after each step, so a kill at any moment loses no response that reached us; what was on its way, at most
`concurrency` calls, is charged at its upper bound.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sized
from dataclasses import dataclass
from functools import partial

from curation.config.project import ModelSpec
from curation.errors import ModelUnavailable
from curation.models.base import ChatModel
from curation.models.ledger import Claimed, Held, Ledger
from curation.models.pricing import bound_nano, find_rates, is_priced
from curation.models.sender import AnswerCheck, RetryPolicy, Sender, StopRun, Tally, budget_reached
from curation.models.settlement import settle_kept
from curation.requests import Request


@dataclass(frozen=True)
class AskProgress:
    """Where a run of calls stands."""

    done: int
    total: int | None
    in_flight: int
    answered: int
    reused: int
    failed: int
    cost_usd: float
    """Of this run."""
    seconds: float


@dataclass(frozen=True)
class AskSummary:
    """What a run of calls did."""

    answered: int
    reused: int
    """Answered before, or by another process meanwhile."""
    failed: int
    uncertain: int
    """Tries, of this run and of processes that died before it, whose answer never reached us; charged at their upper bound."""
    cost_usd: float
    """What this process spent in this run, its uncertain tries included."""
    failures: dict[str, int]
    """By reason."""
    refusals: dict[str, int]
    """Answers that are refusals, by the provider's category."""


_LOOK_AHEAD = 256

_POLL_S = 0.25

BEAT_S = 20.0

_TELL_S = 0.2


async def ask_async(
    requests: Iterable[Request],
    *,
    model: ChatModel,
    spec: ModelSpec,
    ledger: Ledger,
    budget_usd: float,
    simulated: bool,
    progress: Callable[[AskProgress], None] | None = None,
    patience: RetryPolicy = RetryPolicy(),
    check: AnswerCheck | None = None,
) -> AskSummary:
    """`ask` inside a running event loop; the ledger is used from its thread."""
    total = len(requests) if isinstance(requests, Sized) else None
    run = _Run(iter(requests), total, model=model, spec=spec, ledger=ledger, budget_usd=budget_usd, simulated=simulated, progress=progress)
    return await run.run(patience, check)


def summarize(tally: Tally) -> AskSummary:
    """The tally of a run that has ended."""
    return AskSummary(
        *(tally.answered, tally.reused, tally.failed, tally.uncertain, tally.spent_nano / 1e9),
        failures=dict(tally.failures),
        refusals=dict(tally.refusals),
    )


class _Run:
    def __init__(
        self,
        requests: Iterator[Request],
        total: int | None,
        *,
        model: ChatModel,
        spec: ModelSpec,
        ledger: Ledger,
        budget_usd: float,
        simulated: bool,
        progress: Callable[[AskProgress], None] | None,
    ) -> None:
        self.requests, self.total, self.model, self.spec, self.ledger = requests, total, model, spec, ledger
        self.budget_usd, self.simulated, self.progress = budget_usd, simulated, progress
        self.rates = find_rates(spec)
        self.since, self.began, self.told = time.time(), time.monotonic(), 0.0
        self.ahead: deque[tuple[Request, int]] = deque()
        self.elsewhere: list[tuple[Request, int]] = []
        self.pending = 0  # claimed by us and not ended
        self.stopped_by: BaseException | None = None

    async def run(self, patience: RetryPolicy, check: AnswerCheck | None) -> AskSummary:
        self.queue: asyncio.Queue[Held | None] = asyncio.Queue()
        self.moved, self.stopping = asyncio.Event(), asyncio.Event()
        self.sender = Sender(
            model=self.model,
            spec=self.spec,
            ledger=self.ledger,
            budget_usd=self.budget_usd,
            patience=patience,
            stopping=self.stopping,
            stop=self._stop,
            check=check,
        )
        self._recover()
        settle_kept(self.ledger, self.spec)
        with self._interruptible():
            tasks = [asyncio.create_task(self._work()) for _ in range(self.spec.concurrency)]
            beat = asyncio.create_task(self._beat())
            try:
                try:
                    await self._feed()
                except Exception as error:  # the caller's requests or the ledger failed: ends the run, after what is on its way is kept
                    self._stop(error)
                for _ in tasks:
                    self.queue.put_nowait(None)
                await asyncio.gather(*tasks)
            except asyncio.CancelledError:
                if self.stopped_by is None:
                    raise
            finally:
                for task in (beat, *tasks):
                    task.cancel()
                await asyncio.gather(beat, *tasks, return_exceptions=True)
                self.sender.commit.flush()
                self.sender.tally.uncertain += self.ledger.release().uncertain
                await self.model.close()
        self._tell(always=True)
        tally = self.sender.tally
        if isinstance(self.stopped_by, KeyboardInterrupt):  # told now, when those on their way have come home
            total = "" if self.total is None else f" of {self.total}"
            raise KeyboardInterrupt(
                f"stopped after {tally.answered + tally.reused}{total} answers, all kept; run the same command again to go on"
            )
        if self.stopped_by is not None:
            raise self.stopped_by
        return summarize(tally)

    async def _feed(self) -> None:
        """Claim calls as the workers need them, then wait for those that another process has on its way."""
        while not self.stopping.is_set():
            self._look_ahead()
            if not self.ahead:
                if not self.elsewhere:
                    return
                await self._wait(_POLL_S)
                self._recover()
                if self.ledger.batches.open(model=self.spec.model, simulated=self.simulated):
                    raise ModelUnavailable(f"{len(self.elsewhere)} calls", "are in a batch of another process", "run again to wait for it")
                self.ahead, self.elsewhere = deque(self.elsewhere), []
            room = self.spec.concurrency - self.queue.qsize()
            if room * 2 < self.spec.concurrency:
                await self._wait()
                continue
            await self._claim(room)
            self._tell()
            await asyncio.sleep(0)

    async def _claim(self, room: int) -> None:
        offers = list(self.ahead)
        change = partial(self.ledger.claim, offers, provider=self.spec.provider, simulated=self.simulated, limit=room)
        claim: Claimed = await self.sender.commit.write(partial(change, budget_usd=self.budget_usd, since=self.since))
        self.ahead = deque(offers[claim.looked_at :])
        self.elsewhere += [offers[place] for place in claim.elsewhere]
        self.sender.tally.reused += claim.reused
        self.sender.tally.failed += claim.failed
        self.pending += len(claim.calls)
        for call in claim.calls:
            self.queue.put_nowait(call)
        if not claim.over_budget:
            return
        # What is on its way, or not written down yet, costs less than is held for it; then there may be room.
        if self.pending:
            await self._wait()
        elif not self.sender.commit.flush():
            self._stop(budget_reached(self.budget_usd))

    def _recover(self) -> None:
        self.sender.tally.uncertain += self.ledger.recover().uncertain

    def _look_ahead(self) -> None:
        while len(self.ahead) < _LOOK_AHEAD and (request := next(self.requests, None)) is not None:
            self.ahead.append((request, bound_nano(request, self.rates) if is_priced(request, self.rates) else 0))

    async def _work(self) -> None:
        while (call := await self.queue.get()) is not None and not self.stopping.is_set():
            try:
                await self.sender.send(call)
            except StopRun as stop:
                self._stop(stop.error)
            except Exception as error:  # not ours to mend: ends the run, after those on their way are kept
                self._stop(error)
            self.pending -= 1
            self.moved.set()
            self._tell()

    async def _wait(self, seconds: float | None = None) -> None:
        """Until a call ends, the run stops, or the time is over."""
        self.moved.clear()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.moved.wait(), seconds)

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(BEAT_S)
            await self.sender.commit.write(self.ledger.beat)

    def _stop(self, error: BaseException | None) -> None:
        """Send nothing more; the first reason is the one that is told."""
        self.stopped_by = self.stopped_by or error
        self.stopping.set()
        self.sender.limit.close()
        self.moved.set()

    def _tell(self, *, always: bool = False) -> None:
        now = time.monotonic()
        if self.progress is None or (now - self.told < _TELL_S and not always):
            return
        self.told = now
        tally, in_flight = self.sender.tally, self.sender.limit.in_flight
        done = tally.answered + tally.reused + tally.failed
        counts = (done, self.total, in_flight, tally.answered, tally.reused, tally.failed)
        self.progress(AskProgress(*counts, cost_usd=tally.spent_nano / 1e9, seconds=now - self.began))

    @contextlib.contextmanager
    def _interruptible(self) -> Iterator[None]:
        """Ctrl-C lets calls on their way come home; a second one does not."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        loop, task, before = asyncio.get_running_loop(), asyncio.current_task(), signal.getsignal(signal.SIGINT)

        def interrupt() -> None:
            if self.stopping.is_set() and task is not None:
                task.cancel()
            self._stop(KeyboardInterrupt())

        loop.add_signal_handler(signal.SIGINT, interrupt)
        try:
            yield
        finally:
            loop.remove_signal_handler(signal.SIGINT)
            signal.signal(signal.SIGINT, before)
