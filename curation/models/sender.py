"""The life of one call: sent, kept, read; or tried again with growing, jittered waits; or a counted failure."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type

from curation.config.project import ModelSpec
from curation.errors import BudgetReached, ModelUnavailable, UnusableAnswers
from curation.models import responses
from curation.models.base import ChatModel, NoReply, Reply
from curation.models.group_commit import GroupCommit
from curation.models.ledger import Held, Ledger
from curation.models.pricing import cost_nano, find_rates, is_priced
from curation.models.rate_limit import AdaptiveLimit, Circuit
from curation.models.settlement import check_usage, settle
from curation.models.tracing import record_call
from curation.requests import Answer, Failure

_SHOWN = 200
"""Characters of an answer that an error message shows."""


@dataclass(frozen=True)
class RetryPolicy:
    """How long one call is tried. Waits are drawn at random below a doubling bound; a `retry-after` is kept to."""

    tries: int = 8
    unreachable_tries: int = 4
    lost_tries: int = 3
    """A try that was sent and never answered may have been paid for, so there are fewer of them."""
    first_wait_s: float = 0.5
    longest_wait_s: float = 60.0
    first_poll_s: float = 0.5
    """Between the first looks at a batch; the pauses grow to the longest one."""
    longest_poll_s: float = 30.0


@dataclass
class Tally:
    """What a run has done so far."""

    answered: int = 0
    reused: int = 0
    failed: int = 0
    uncertain: int = 0
    spent_nano: int = 0
    failures: Counter[str] = field(default_factory=Counter)
    refusals: Counter[str] = field(default_factory=Counter)


@dataclass
class AnswerCheck:
    """When to stop paying a model whose answers cannot be used. It may be shared by several runs, which then count together."""

    read: Callable[[Answer], Failure | None]
    """Returns why an answer cannot be used; None where it can."""
    most_in_a_row: int
    """So many failures in a row end the run."""
    in_a_row: list[tuple[str, str]] = field(default_factory=list)
    """(reason, what came back) of the failures since the last usable answer."""


class StopRun(Exception):
    """No further call may be sent, for the reason given; the call at hand is given back."""

    def __init__(self, error: BaseException | None = None) -> None:
        self.error = error
        super().__init__(str(error))


class TryAgain(Exception):
    """One try did not succeed, the next may."""

    def __init__(self, reason: str, detail: str, *, status: int | None = None, after: float | None = None, lost: bool = False) -> None:
        self.reason, self.detail, self.status, self.after, self.lost = reason, detail, status, after, lost
        super().__init__(f"{reason}: {detail}")


class Sender:
    """Sends claimed calls; shared by the workers of one run.

    Args:
        stop: told what must end the run when it is found after its call was let go: a bug in reading, an open circuit.
        check: reads each answer, and ends the run after a number of failures in a row.
    """

    def __init__(
        self,
        *,
        model: ChatModel,
        spec: ModelSpec,
        ledger: Ledger,
        budget_usd: float,
        patience: RetryPolicy,
        stopping: asyncio.Event,
        stop: Callable[[BaseException | None], None],
        check: AnswerCheck | None = None,
    ) -> None:
        self.tally, self.limit, self.circuit, self.commit = (
            Tally(),
            AdaptiveLimit(spec.concurrency),
            Circuit(),
            GroupCommit(ledger),
        )
        self._model, self._spec, self._ledger, self._budget_usd = model, spec, ledger, budget_usd
        self._check = check
        self._rates, self._patience, self._stopping, self._stop = find_rates(spec), patience, stopping, stop

    async def send(self, call: Held) -> None:
        """Until it is answered or has failed; raises StopRun when the run must end first."""
        if not is_priced(call.request, self._rates):
            limit = self._rates.up_to_prompt_tokens
            await self._fail(call, TryAgain("unpriced_length", f"the list price of {self._spec.model} holds up to {limit} prompt tokens"))
            return
        try:
            await self._try(call)  # most calls need no more, and a retrying loop is a tenth of what a call costs us
        except TryAgain as error:
            await self._try_on(call, error)

    async def _try_on(self, call: Held, first: TryAgain | None) -> None:
        tries = AsyncRetrying(
            sleep=self._sleep, wait=self._wait_s, stop=self._is_enough, retry=retry_if_exception_type(TryAgain), reraise=True
        )
        try:
            async for attempt in tries:
                with attempt:
                    if first is not None:  # the try that is behind us
                        error, first = first, None
                        raise error
                    await self._try(call)
        except TryAgain as error:
            await self._fail(call, error)
            if error.reason == "unreachable":
                unreachable = NoReply(error.reason, error.detail, sent=False)
                raise StopRun(responses.describe_unreachable(unreachable, spec=self._spec, address=self._model.address)) from error

    def settle_from_batch(self, seq: int, raw: bytes) -> bool:
        """Read a response that came in a batch and was kept; whether it is an answer."""
        reading = responses.read_message(raw)
        reading, cost = check_usage(reading, self._cost(reading, in_batch=True), held=self._ledger.held_nano(seq))
        self._settle(seq, reading, cost)
        self._count(reading, cost or 0)
        return reading.failure is None

    def count_failure(self, reason: str) -> None:
        """One more call that ended without an answer."""
        self.tally.failed += 1
        self.tally.failures[reason] += 1

    async def _try(self, call: Held) -> None:
        sent = await self.limit.enter()
        if sent is None:
            raise StopRun
        try:
            await self.commit.write(partial(self._ledger.mark_sent, call.seq))
            started = time.time()
            try:
                reply = await self._model.send(call.request.body)
            except NoReply as error:
                record_call(self._spec, stage=call.request.stage, started=started, error=error.reason)
                await self._retry(call, TryAgain(error.reason, error.detail, lost=error.sent))
            else:
                await self._keep(call, reply, sent=sent, started=started)
        finally:
            self.limit.leave()

    async def _keep(self, call: Held, reply: Reply, *, sent: float, started: float) -> None:
        """First to disk, then look. Nobody waits for the disk here: the next call's `sent` goes there with this one's answer."""
        if 200 <= reply.status < 300:
            request_id = reply.headers.get("request-id") or reply.headers.get("x-request-id")
            change = partial(self._ledger.record_answer, call.seq, status=reply.status, raw=reply.raw, request_id=request_id)
            self.commit.post(change, partial(self._read_kept, call, reply, started), self._stop)
            self.limit.speed_up(reply.headers)
            return
        reason, detail = responses.describe_failure(reply)
        record_call(self._spec, stage=call.request.stage, started=started, error=reason)
        end = responses.ends_the_run(reply, spec=self._spec, address=self._model.address)
        if responses.is_retried(reply.status) and end is None:
            after = responses.retry_after(reply.headers)
            if reply.status in responses.THROTTLED:
                self.limit.slow_down(sent=sent, wait=after)
            await self._retry(call, TryAgain(reason, detail, status=reply.status, after=after))
        await self._fail(call, TryAgain(reason, detail, status=reply.status), raw=reply.raw)
        if end is not None:
            raise StopRun(end)
        self._judge_circuit(reason)

    def _read_kept(self, call: Held, reply: Reply, started: float, _: None) -> None:
        """The response is on disk; whatever goes wrong from here on costs nothing."""
        try:
            reading = responses.read_message(reply.raw)
            reading, cost = check_usage(reading, self._cost(reading), held=call.held_nano)
            self.commit.post(partial(self._settle, call.seq, reading, cost), lambda _: None, self._stop, hurry=False)
            self._count(reading, call.held_nano if cost is None else cost)
            failure = reading.failure[0] if reading.failure else None
            record_call(
                self._spec, stage=call.request.stage, started=started, tokens=reading.tokens, stop=reading.stop_reason, error=failure
            )
            self._judge_circuit(failure)
            self._judge_answer(call, reading, reply.raw)
        except StopRun as stop:
            self._stop(stop.error)
        except Exception as error:
            self._stop(error)

    def _judge_answer(self, call: Held, reading: responses.Reading, raw: bytes) -> None:
        """Count failures in a row, calls that cannot be read among them; a usable answer ends the row.

        Raises:
            StopRun: there are as many as the run may have.
        """
        if self._check is None:
            return
        if reading.failure is not None:
            self._count_unusable(reading.failure[0], raw[:_SHOWN].decode(errors="replace"))
            return
        answer = Answer(request=call.request, message=reading.message or {})
        failure = self._check.read(answer)
        if failure is None:
            self._check.in_a_row.clear()
        else:
            self._count_unusable(failure.reason, answer.text or failure.detail)

    def _count_unusable(self, reason: str, came_back: str) -> None:
        if self._check is None:
            return
        found = self._check.in_a_row
        found.append((reason, came_back))
        if len(found) < self._check.most_in_a_row:
            return
        reasons = ", ".join(f"{reason} {n}" for reason, n in Counter(reason for reason, _ in found).most_common())
        first = " ".join(found[0][1].split())
        shown = repr(first[:_SHOWN]) + ("…" if len(first) > _SHOWN else "")  # as Python writes it, so nothing acts on the terminal
        fact = f"{len(found)} answers in a row could not be used ({reasons}). The first: {shown}"
        step = "change the model or the brief in project.yaml and run again; what could be used is kept (budget.failures_in_a_row)"
        raise StopRun(UnusableAnswers(f"model {self._spec.model}", fact, step))

    def _cost(self, reading: responses.Reading, *, in_batch: bool = False) -> int | None:
        return None if reading.tokens is None else cost_nano(reading.tokens, self._rates, in_batch=in_batch)

    def _settle(self, seq: int, reading: responses.Reading, cost: int | None) -> None:
        settle(self._ledger, seq, reading, cost, price_date=self._rates.date)

    def _count(self, reading: responses.Reading, cost: int) -> None:
        self.tally.spent_nano += cost
        if reading.failure is None:
            self.tally.answered += 1
            self.tally.refusals.update([reading.refusal] if reading.refusal else [])
        else:
            self.count_failure(reading.failure[0])

    async def _retry(self, call: Held, error: TryAgain) -> None:
        fits = await self.commit.write(
            partial(
                self._ledger.record_retry,
                call.seq,
                status=error.status,
                reason=error.reason,
                detail=error.detail,
                lost=error.lost,
                budget_usd=self._budget_usd,
            )
        )
        if error.lost:
            self.tally.uncertain += 1
            self.tally.spent_nano += call.held_nano
        if not fits:
            raise StopRun(budget_reached(self._budget_usd))
        if error.status != 429:
            self._judge_circuit(error.reason, detail=error.detail)
        raise error

    async def _fail(self, call: Held, error: TryAgain, *, raw: bytes | None = None) -> None:
        await self.commit.write(
            partial(self._ledger.record_failure, call.seq, status=error.status, reason=error.reason, detail=error.detail, raw=raw)
        )
        self.count_failure(error.reason)
        if not error.lost:
            self._count_unusable(error.reason, error.detail)

    def _judge_circuit(self, failure: str | None, *, detail: str = "") -> None:
        self.circuit.add(failure)
        opening = self.circuit.describe_opening() if failure else None
        if opening is None:
            return
        if failure == "unreachable":
            raise StopRun(
                responses.describe_unreachable(NoReply(failure, detail, sent=False), spec=self._spec, address=self._model.address)
            )
        what = f"model {self._spec.model} at {self._model.address}"
        raise StopRun(ModelUnavailable(what, opening, "run the same command again later; what was answered is kept"))

    def _is_enough(self, state: RetryCallState) -> bool:
        error = _error_of(state)
        most = self._patience.tries
        if error.reason == "unreachable":
            most = self._patience.unreachable_tries
        if error.lost:
            most = self._patience.lost_tries
        return state.attempt_number >= most

    def _wait_s(self, state: RetryCallState) -> float:
        error, patience = _error_of(state), self._patience
        bound: float = min(patience.longest_wait_s, patience.first_wait_s * 2.0 ** (state.attempt_number - 1))
        if error.after is not None:
            return error.after + random.uniform(0, patience.first_wait_s)
        return random.uniform(bound / 2, bound)

    async def _sleep(self, seconds: float) -> None:
        try:
            await asyncio.wait_for(self._stopping.wait(), seconds)
        except TimeoutError:
            return
        raise StopRun


def budget_reached(budget_usd: float) -> BudgetReached:
    """The sentence; what was answered is kept, so it says how to go on."""
    fact = f"of {budget_usd:.2f} USD is reached: one more call could pass it"
    return BudgetReached("budget.usd", fact, "raise budget.usd in project.yaml and run the same command again; what was answered is kept")


def _error_of(state: RetryCallState) -> TryAgain:
    error = state.outcome.exception() if state.outcome is not None else None
    assert isinstance(error, TryAgain)
    return error
