"""Entry points for synchronous code: send requests one by one, or in Message Batches."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import replace

from curation.models.batch_runner import BatchRun
from curation.models.context import AskSummary, CallContext
from curation.models.runner import ask_async
from curation.requests import Request


def ask(requests: Iterable[Request], context: CallContext) -> AskSummary:
    """Send the requests that have no answer yet. Every request ends as an answer or a counted failure in the ledger.

    A batch that an earlier run left at the provider is fetched first.

    Args:
        requests: consumed lazily; `len(requests)`, where it is known, is the total of the progress.
        context: the model, the ledger, the budget.

    Raises:
        UnusableAnswers: as many consecutive answers were unusable as `context.check` allows.
        BudgetReached: the next call could exceed the budget. Calls in flight were awaited and kept.
        ModelUnavailable: the address, the key, the account, the model's name; or half of the latest tries failed.
        KeyboardInterrupt: Ctrl-C, with a sentence about where it stopped. Calls in flight were awaited and kept; a second Ctrl-C leaves
            them uncertain.
    """
    if context.ledger.batches.open(model=context.spec.model, simulated=context.simulated):
        ask_batch((), replace(context, check=None))
    return asyncio.run(ask_async(requests, context))


def ask_batch(requests: Iterable[Request], context: CallContext) -> AskSummary:
    """Send requests as `ask` does, in Message Batches, for half the price.

    The first request is sent on its own, because a batch is validated late; then the others together. Errored and expired requests are
    submitted again, up to three times; canceled ones are counted failures. A process that dies or is interrupted leaves the batch at the
    provider, and the next run fetches it.
    """
    try:
        return asyncio.run(BatchRun(context).run(list(requests)))
    except KeyboardInterrupt:
        raise KeyboardInterrupt("stopped; the batch continues at the provider, and the same command fetches it") from None
