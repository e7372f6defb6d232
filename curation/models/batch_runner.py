"""Message Batches: half the price, up to a day's wait. The calls stand in the ledger before the batch is made, its id before the first
look at it, and its results are joined by key, in any order, however often they are read.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

import orjson

from curation.config.project import ModelSpec
from curation.errors import ModelUnavailable
from curation.models import responses
from curation.models.base import ChatModel, NoReply
from curation.models.batch_client import BatchApi, BatchGone
from curation.models.ledger import Claimed, Held
from curation.models.pricing import bound_nano, find_rates, is_priced
from curation.models.runner import BEAT_S, AskProgress, AskSummary, ask_async, summarize
from curation.models.sender import AnswerCheck, RetryPolicy, Sender, budget_reached
from curation.models.settlement import settle_kept
from curation.requests import Request

if TYPE_CHECKING:
    from curation.models.ledger import Ledger, OpenBatch

_MOST_CALLS = 5000
_MOST_BYTES = 200 * 2**20
_ROUNDS = 3
_KEPT_S = 29 * 86400
"""How long the provider keeps results."""
_WORTH_A_STUB = 10
"""Requests of one prefix from which reading it from the cache is worth waiting for a batch of one."""


def ask_batch(
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
    """As `ask`, in Message Batches: one request goes ahead alone, since a batch is validated late, then the rest together.

    What errored or expired is submitted again, up to three times; what was canceled is a counted failure. A process that dies or
    is interrupted leaves the batch at the provider, and the next run fetches it.
    """
    run = _BatchRun(
        model=model,
        spec=spec,
        ledger=ledger,
        budget_usd=budget_usd,
        simulated=simulated,
        progress=progress,
        patience=patience,
        check=check,
    )
    try:
        return asyncio.run(run.run(list(requests)))
    except KeyboardInterrupt:
        raise KeyboardInterrupt("stopped; a batch on its way goes on at the provider, and the same command fetches it") from None


class _BatchRun:
    def __init__(
        self,
        *,
        model: ChatModel,
        spec: ModelSpec,
        ledger: Ledger,
        budget_usd: float,
        simulated: bool,
        progress: Callable[[AskProgress], None] | None,
        patience: RetryPolicy,
        check: AnswerCheck | None,
    ) -> None:
        self.check = check
        self.model, self.spec, self.ledger, self.budget_usd, self.simulated = model, spec, ledger, budget_usd, simulated
        self.progress, self.patience, self.api = progress, patience, BatchApi(model, patience=patience, tell=self._tell)
        self.rates, self.since, self.began = find_rates(spec), time.time(), time.monotonic()
        self.again, self.answered, self.failed = list[str](), set[str](), set[str]()
        self.rounds = Counter[str]()

    async def run(self, requests: list[Request]) -> AskSummary:
        self.total, beat = len(requests), asyncio.create_task(self._beat())
        self.sender = Sender(
            model=self.model,
            spec=self.spec,
            ledger=self.ledger,
            budget_usd=self.budget_usd,
            patience=self.patience,
            stopping=asyncio.Event(),
            stop=lambda error: None,  # it sends nothing here
        )
        try:
            await self._finish_open()
            await self._probe(requests)
            await self._ask_all(await self._warm(requests))
        finally:
            beat.cancel()
            self.sender.tally.uncertain += self.ledger.release().uncertain
            await self.model.close()
        return summarize(self.sender.tally)

    async def _ask_all(self, requests: list[Request]) -> None:
        todo, by_key = requests, {request.key: request for request in requests}
        while todo:
            offers = [(r, bound_nano(r, self.rates, in_batch=True) if is_priced(r, self.rates) else 0) for r in _head(todo)]
            claim = self._claim(offers, limit=_MOST_CALLS)
            elsewhere = [offers[place][0] for place in claim.elsewhere]
            met = {request.key for request, _ in offers[: claim.looked_at]}
            # What this run has read of earlier batches was counted then.
            self.sender.tally.reused += claim.reused - len(met & self.answered)
            self.sender.tally.failed += claim.failed - len(met & self.failed)
            todo = todo[claim.looked_at :]
            if claim.calls:
                await self._submit([call for call in claim.calls if is_priced(call.request, self.rates)])
                for call in claim.calls:
                    if not is_priced(call.request, self.rates):
                        await self.sender.send(call)  # which counts it as failed
            elif claim.over_budget:
                raise budget_reached(self.budget_usd)
            elif elsewhere and not todo:
                await asyncio.sleep(self.patience.first_poll_s)
            await self._finish_open()
            todo += elsewhere + [by_key[key] for key in self.again if key in by_key]
            self._forgive()

    def _forgive(self) -> None:
        """What errored or expired may be claimed again, though it failed in this run."""
        self.again, self.since = [], time.time() + 1e-3 if self.again else self.since

    async def _probe(self, requests: Sequence[Request]) -> None:
        """Ask the first request that is not answered alone and at full price, so that a mistake in the body shows now and not in a day.

        While the answer cannot be used the next one is asked, so that no batch is paid whose answers cannot be used either.
        """
        while True:
            offers = [(request, 0) for request in requests]
            claim = self._claim(offers, limit=1)
            self.ledger.release([call.seq for call in claim.calls])
            if not claim.calls:
                return
            await self._probe_one(claim.calls[0].request)
            if self.check is None or not self.check.in_a_row:
                return

    async def _probe_one(self, request: Request) -> None:
        summary = await ask_async(
            [request],
            model=self.model,
            spec=self.spec,
            ledger=self.ledger,
            budget_usd=self.budget_usd,
            simulated=self.simulated,
            patience=self.patience,
            check=self.check,
        )
        refused = {"http_400", "http_413", "http_422"} & set(summary.failures)
        if refused:
            fact = f"refuses the first request of the batch ({refused.pop()})"
            raise ModelUnavailable(f"model {self.spec.model}", fact, "see `curate status`, mend the request's settings and run again")
        tally = self.sender.tally
        tally.answered += summary.answered
        tally.reused -= summary.answered  # it will be met again among the others
        tally.spent_nano += round(summary.cost_usd * 1e9)
        tally.uncertain += summary.uncertain
        tally.refusals.update(summary.refusals)

    async def _warm(self, requests: list[Request]) -> list[Request]:
        """One request of each long shared prefix goes in a batch ahead of the others, which then read the prefix from the cache:
        in a cold batch each of them would pay for writing it. Returns the requests that were not in it.
        """
        calls = list[Held]()
        for alike in _long_prefixes(requests):
            offers = [(r, bound_nano(r, self.rates, in_batch=True)) for r in alike if is_priced(r, self.rates)]
            calls += self._claim(offers, limit=1).calls
        if not calls:
            return requests
        await self._submit(calls)
        await self._finish_open()
        sent = {call.request.key for call in calls} - set(self.again)
        self._forgive()  # what errored is met again among the others
        return [request for request in requests if request.key not in sent]

    def _claim(self, offers: Sequence[tuple[Request, int]], *, limit: int) -> Claimed:
        provider, since = self.spec.provider, self.since
        return self.ledger.claim(offers, provider=provider, simulated=self.simulated, limit=limit, budget_usd=self.budget_usd, since=since)

    async def _submit(self, calls: Sequence[Held]) -> None:
        if not calls:
            return
        number = self.ledger.hand_over([call.seq for call in calls], model=self.spec.model, simulated=self.simulated)
        try:
            asked = [{"custom_id": call.request.key, "params": call.request.body} for call in calls]
            made = await self.api.make(asked, known=self.ledger.batches.known_ids())
        except NoReply as error:
            if not error.sent:  # else the next run looks for it
                with self.ledger.transaction():
                    self.ledger.batches.undo(number, status=None, reason=error.reason, detail=error.detail)
            raise responses.describe_unreachable(error, spec=self.spec, address=self.model.address) from error
        if isinstance(made, str):
            self.ledger.batches.name(number, made)
            return
        reason, detail = responses.describe_failure(made)
        with self.ledger.transaction():
            self.ledger.batches.undo(number, status=made.status, reason=reason, detail=detail)
        end = responses.ends_the_run(made, spec=self.spec, address=self.model.address)
        raise end or ModelUnavailable(
            f"model {self.spec.model}", f"takes no batch ({reason} {detail})", "run again, or without batch: true"
        )

    async def _finish_open(self) -> None:
        """Wait for every batch of this model that is not read yet, those of dead processes included, and read it."""
        self.sender.tally.uncertain += self.ledger.recover().uncertain
        settle_kept(self.ledger, self.spec)
        for batch in self.ledger.batches.open(model=self.spec.model, simulated=self.simulated):
            if batch.batch_id is not None:
                await self._fetch(batch, batch.batch_id)
                continue
            # A process died between making the batch and keeping its id.
            keys, known = set(self.ledger.batches.waiting(batch.number)), self.ledger.batches.known_ids()
            lost = await self.api.find(keys, size=batch.requests, since=batch.created - 60, known=known)
            if lost is not None:
                self.ledger.batches.name(batch.number, lost)
                await self._read(batch.number, lost)
                continue
            with self.ledger.transaction():
                self.ledger.batches.undo(batch.number, status=None, reason="never_arrived", detail="the provider lists no such batch")

    async def _fetch(self, batch: OpenBatch, batch_id: str) -> None:
        """Wait for it and read it. Once the provider has thrown its results away, its calls are uncertain, and charged."""
        try:
            await self.api.wait(batch_id)
            await self._read(batch.number, batch_id)
        except BatchGone:
            if time.time() - batch.created < _KEPT_S:
                raise
            with self.ledger.transaction():
                self.sender.tally.uncertain += self.ledger.batches.end(batch.number)

    async def _read(self, number: int, batch_id: str) -> None:
        """Keep all results, then look at them. A body that was cut is fetched again."""
        for _ in range(_ROUNDS):
            raw = await self.api.results(batch_id)
            self._keep(number, raw, self.ledger.batches.waiting(number))
            if not self.ledger.batches.waiting(number):
                break
        with self.ledger.transaction():
            self.sender.tally.uncertain += self.ledger.batches.end(number)

    def _keep(self, number: int, raw: bytes, waiting: dict[str, int]) -> None:
        results = [result for line in raw.splitlines() if (result := responses.read_batch_line(line)) is not None]
        mine = list({result.key: result for result in results if result.key in waiting}.values())
        for start in range(0, len(mine), _MOST_CALLS):
            with self.ledger.transaction():
                self.ledger.batches.keep(number, mine[start : start + _MOST_CALLS])
        for result in mine:
            if result.raw is not None:
                continue
            self.rounds[result.key] += 1
            if result.is_resubmitted and self.rounds[result.key] < _ROUNDS:
                self.again.append(result.key)
            else:
                self.sender.count_failure(result.reason)
                self.failed.add(result.key)
        with self.ledger.transaction():
            for result in mine:
                if result.raw is not None:
                    is_answer = self.sender.settle_from_batch(waiting[result.key], result.raw)
                    (self.answered if is_answer else self.failed).add(result.key)

    async def _beat(self) -> None:
        """A process on another machine must not take a batch that is being made for one whose maker died."""
        while True:
            await asyncio.sleep(BEAT_S)
            self.ledger.beat()

    def _tell(self) -> None:
        if self.progress is None:
            return
        tally, parts = self.sender.tally, (self.sender.tally.answered, self.sender.tally.reused, self.sender.tally.failed)
        counts = (sum(parts), self.total, self.total - sum(parts), *parts)
        self.progress(AskProgress(*counts, cost_usd=tally.spent_nano / 1e9, seconds=time.monotonic() - self.began))


def _head(requests: Sequence[Request]) -> list[Request]:
    """As many as one batch may hold."""
    size, taken = 0, list[Request]()
    for request in requests[:_MOST_CALLS]:
        size += len(orjson.dumps(request.body)) + 100
        if size > _MOST_BYTES and taken:
            break
        taken.append(request)
    return taken


def _long_prefixes(requests: Sequence[Request]) -> list[list[Request]]:
    """The requests of each system prompt that is marked for the cache and shared by enough of them."""
    alike: dict[bytes, list[Request]] = {}
    for request in requests:
        system = orjson.dumps(request.body.get("system"))
        if b'"cache_control"' in system:
            alike.setdefault(system, []).append(request)
    return [shared for shared in alike.values() if len(shared) >= _WORTH_A_STUB]
