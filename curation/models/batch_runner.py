"""Run the requests of a stage in Message Batches: half the price, up to 24 hours.

The calls are in the ledger before the batch is created, its id before the first poll, and its results are joined by key, in any order and
however often they are read. So a process may die at any point, and the next run fetches the batch and pays nothing twice.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import orjson

from curation.errors import ModelUnavailable
from curation.models import responses
from curation.models.base import NoResponse
from curation.models.batch_client import BatchApi, BatchGone
from curation.models.context import AskSummary, CallContext
from curation.models.pricing import bound_nano, find_rates, is_priced
from curation.models.runner import HEARTBEAT_S, ask_async
from curation.models.sender import Sender, budget_reached
from curation.models.settlement import settle_kept
from curation.requests import Claim, ClaimedCall, OpenBatch, Request

_MAX_CALLS = 5000
"""Per batch and per transaction; the API allows 100,000."""
_MAX_BYTES = 200 * 2**20
"""The API refuses more than 256 MB."""
_ROUNDS = 3
"""Submissions of one request, and downloads of one batch's results."""
_RESULTS_KEPT_S = 29 * 86400
"""How long the provider keeps results."""
_MIN_SHARED_PREFIX = 10
"""Requests with one prefix from which the saving is worth the wait for a batch of one that fills the cache."""


class BatchRun:
    """State of one `ask_batch`; whatever must survive it is in the ledger."""

    def __init__(self, context: CallContext) -> None:
        self.context, self.spec, self.ledger, self.rates = context, context.spec, context.ledger, find_rates(context.spec)
        self.api = BatchApi(context.model, retries=context.retries, report=self._report)
        self.since, self.began = time.time(), time.monotonic()
        self.again, self.answered, self.failed = list[str](), set[str](), set[str]()  # keys: to submit again, and read in this run
        self.rounds = Counter[str]()
        self.total = 0

    async def run(self, requests: list[Request]) -> AskSummary:
        """Fetch open batches, send one request on its own, then the others in batches."""
        self.total, heartbeat = len(requests), asyncio.create_task(self._heartbeat())
        # The check has read the probe's answers; a batch is paid once it is created, so its answers are not checked.
        context = replace(self.context, check=None)
        self.sender = Sender(context, stopping=asyncio.Event(), stop=lambda error: None)  # it sends no calls here, it settles them
        try:
            # Open batches first: what they hold must not be bought again.
            await self._finish_open()
            await self._probe(requests)
            await self._ask_all(await self._warm_cache(requests))
        finally:
            heartbeat.cancel()
            self.sender.tally.uncertain += self.ledger.release().uncertain
            await self.context.model.close()
        return self.sender.tally.summary()

    async def _ask_all(self, requests: list[Request]) -> None:
        todo, by_key = requests, {request.key: request for request in requests}
        while todo:
            fitting = _take_batch(todo)
            offers = [(r, bound_nano(r, self.rates, in_batch=True) if is_priced(r, self.rates) else 0) for r in fitting]
            claim = self._claim(offers, limit=_MAX_CALLS)
            elsewhere = [offers[place][0] for place in claim.elsewhere]
            met = {request.key for request, _ in offers[: claim.looked_at]}
            # Results that this run has read from earlier batches are counted already.
            self.sender.tally.reused += claim.reused - len(met & self.answered)
            self.sender.tally.failed += claim.failed - len(met & self.failed)
            todo = todo[claim.looked_at :]
            if claim.calls:
                # Unpriced calls (prompt longer than the list price allows) are claimed at no cost, to be recorded as failures.
                await self._submit([call for call in claim.calls if is_priced(call.request, self.rates)])
                for call in claim.calls:
                    if not is_priced(call.request, self.rates):
                        await self.sender.send(call)  # records its failure; nothing is sent
            elif claim.over_budget:
                raise budget_reached(self.context.budget_usd)
            elif elsewhere and not todo:
                await asyncio.sleep(self.context.retries.first_poll_s)
            await self._finish_open()
            todo += elsewhere + [by_key[key] for key in self.again if key in by_key]
            self._allow_again()

    def _allow_again(self) -> None:
        """Let errored and expired calls be claimed once more, although they failed in this run."""
        self.again, self.since = [], time.time() + 1e-3 if self.again else self.since

    async def _probe(self, requests: Sequence[Request]) -> None:
        """Send the first unanswered request on its own, at full price, so that a malformed body shows now and not in a day.

        While the answer is unusable the next request is sent, so no batch is paid whose answers would be unusable too.

        Raises:
            ModelUnavailable: the request is refused.
        """
        while True:
            claim = self._claim([(request, 0) for request in requests], limit=1)
            self.ledger.release([call.seq for call in claim.calls])
            if not claim.calls:
                return
            summary = await ask_async([claim.calls[0].request], replace(self.context, progress=None))
            refused = {"http_400", "http_413", "http_422"} & set(summary.failures)
            if refused:
                fact = f"refuses the first request of the batch ({refused.pop()})"
                raise ModelUnavailable(
                    f"model {self.spec.model}", fact, "see `curate status`, correct the request's settings and run again"
                )
            tally = self.sender.tally
            tally.answered += summary.answered
            tally.reused -= summary.answered  # it is found again, answered, among the others
            tally.spent_nano += round(summary.cost_usd * 1e9)
            tally.uncertain += summary.uncertain
            tally.refusals.update(summary.refusals)
            if self.context.check is None or not self.context.check.in_a_row:
                return

    async def _warm_cache(self, requests: list[Request]) -> list[Request]:
        """Send one request of each long shared prefix in a batch before the others, which then read the prefix from the cache.

        In a cold batch every request would pay for writing the cache.

        Returns:
            The requests that were not in that batch.
        """
        calls = list[ClaimedCall]()
        for alike in _group_by_cached_prefix(requests):
            offers = [(r, bound_nano(r, self.rates, in_batch=True)) for r in alike if is_priced(r, self.rates)]
            calls += self._claim(offers, limit=1).calls
        if not calls:
            return requests
        await self._submit(calls)
        await self._finish_open()
        sent = {call.request.key for call in calls} - set(self.again)
        self._allow_again()  # an errored one is sent again with the others
        return [request for request in requests if request.key not in sent]

    def _claim(self, offers: Sequence[tuple[Request, int]], *, limit: int) -> Claim:
        context = self.context
        return self.ledger.claim(
            offers,
            provider=self.spec.provider,
            simulated=context.simulated,
            limit=limit,
            budget_usd=context.budget_usd,
            since=self.since,
        )

    async def _submit(self, calls: Sequence[ClaimedCall]) -> None:
        """Create a batch of claimed calls and write down its id.

        Raises:
            ModelUnavailable: the provider cannot be reached, or refuses the batch.
        """
        if not calls:
            return
        # On disk before the request leaves; a batch without an id is searched for by the next run.
        number = self.ledger.hand_over([call.seq for call in calls], model=self.spec.model, simulated=self.context.simulated)
        address = self.context.model.address
        try:
            bodies = [{"custom_id": call.request.key, "params": call.request.body} for call in calls]
            created = await self.api.create(bodies, known=self.ledger.batches.known_ids())
        except NoResponse as error:
            if not error.sent:  # otherwise it may exist, and the next run searches for it
                with self.ledger.transaction():
                    self.ledger.batches.undo(number, status=None, reason=error.reason, detail=error.detail)
            raise responses.describe_unreachable(error, spec=self.spec, address=address) from error
        if isinstance(created, str):
            self.ledger.batches.name(number, created)
            return
        reason, detail = responses.describe_failure(created)
        with self.ledger.transaction():
            self.ledger.batches.undo(number, status=created.status, reason=reason, detail=detail)
        fatal = responses.fatal_error(created, spec=self.spec, address=address)
        what, fact = f"model {self.spec.model}", f"takes no batch ({reason} {detail})"
        raise fatal or ModelUnavailable(what, fact, "run again, or without batch: true")

    async def _finish_open(self) -> None:
        """Wait for every open batch of this model, those of dead processes included, and read it."""
        self.sender.tally.uncertain += self.ledger.recover().uncertain
        settle_kept(self.ledger, self.spec)
        for batch in self.ledger.batches.open(model=self.spec.model, simulated=self.context.simulated):
            if batch.batch_id is not None:
                await self._fetch(batch, batch.batch_id)
                continue
            # A process died between creating the batch and writing down its id.
            keys, known = set(self.ledger.batches.waiting(batch.number)), self.ledger.batches.known_ids()
            lost = await self.api.find(keys, size=batch.requests, created=batch.created, known=known)
            if lost is not None:
                self.ledger.batches.name(batch.number, lost)
                await self._read(batch.number, lost)
                continue
            with self.ledger.transaction():
                self.ledger.batches.undo(batch.number, status=None, reason="never_arrived", detail="the provider lists no such batch")

    async def _fetch(self, batch: OpenBatch, batch_id: str) -> None:
        """Wait for a batch and read it. Once the provider has deleted its results, its calls are uncertain, and charged."""
        try:
            await self.api.wait(batch_id)
            await self._read(batch.number, batch_id)
        except BatchGone:
            if time.time() - batch.created < _RESULTS_KEPT_S:
                raise
            with self.ledger.transaction():
                self.sender.tally.uncertain += self.ledger.batches.end(batch.number)

    async def _read(self, number: int, batch_id: str) -> None:
        """Write all results to the ledger, then settle them. A body that was cut is fetched again."""
        for _ in range(_ROUNDS):
            raw = await self.api.results(batch_id)
            self._keep(number, raw, self.ledger.batches.waiting(number))
            if not self.ledger.batches.waiting(number):
                break
        with self.ledger.transaction():
            self.sender.tally.uncertain += self.ledger.batches.end(number)

    def _keep(self, number: int, raw: bytes, waiting: dict[str, int]) -> None:
        """Write the results of waiting calls as they came, count the errors, and settle the answers."""
        # Results may repeat a line, come in any order, or hold keys of requests that another run has read.
        results = [result for line in raw.splitlines() if (result := responses.read_batch_line(line)) is not None]
        mine = list({result.key: result for result in results if result.key in waiting}.values())
        for start in range(0, len(mine), _MAX_CALLS):
            with self.ledger.transaction():
                self.ledger.batches.keep(number, mine[start : start + _MAX_CALLS])
        # Everything is on disk now; parsing may fail without losing a response.
        for result in mine:
            if result.raw is not None:
                continue
            self.rounds[result.key] += 1
            if result.is_resubmitted and self.rounds[result.key] < _ROUNDS:
                self.again.append(result.key)
            else:
                self.sender.tally.count_failure(result.reason)
                self.failed.add(result.key)
        with self.ledger.transaction():
            for result in mine:
                if result.raw is not None:
                    is_answer = self.sender.settle_from_batch(waiting[result.key], result.raw)
                    (self.answered if is_answer else self.failed).add(result.key)

    async def _heartbeat(self) -> None:
        """Renew the lease: a process on another machine must not take a batch that is being created for one whose creator died."""
        while True:
            await asyncio.sleep(HEARTBEAT_S)
            self.ledger.beat()

    def _report(self) -> None:
        if self.context.progress is not None:
            tally = self.sender.tally
            seconds = time.monotonic() - self.began
            self.context.progress(tally.progress(total=self.total, in_flight=self.total - tally.done, seconds=seconds))


def _take_batch(requests: Sequence[Request]) -> list[Request]:
    """Return as many of the first requests as one batch may hold."""
    size, taken = 0, list[Request]()
    for request in requests[:_MAX_CALLS]:
        size += len(orjson.dumps(request.body)) + 100
        if size > _MAX_BYTES and taken:
            break
        taken.append(request)
    return taken


def _group_by_cached_prefix(requests: Sequence[Request]) -> list[list[Request]]:
    """Return the requests of each system prompt that is marked for the cache and shared by enough of them."""
    alike: dict[bytes, list[Request]] = {}
    for request in requests:
        system = orjson.dumps(request.body.get("system"))
        if b'"cache_control"' in system:
            alike.setdefault(system, []).append(request)
    return [shared for shared in alike.values() if len(shared) >= _MIN_SHARED_PREFIX]
