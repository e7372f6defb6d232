"""Send requests to a model from synchronous code."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

from curation.config.project import ModelSpec
from curation.models.base import ChatModel
from curation.models.ledger import Ledger
from curation.models.runner import AskProgress, AskSummary, ask_async
from curation.models.sender import AnswerCheck, RetryPolicy
from curation.requests import Request


def ask(
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
    """Ask what is not answered yet. Every request ends as an answer or a counted failure in the ledger.

    Args:
        requests: taken lazily; its `len`, where it has one, is the total told to `progress`.
        budget_usd: cap on all calls of the project, earlier runs included; simulated and real money count apart.
        check: reads each answer, and ends the run after a number of failures in a row.

    Raises:
        UnusableAnswers: as many answers in a row could not be used as the check allows.
        BudgetReached: the next call could pass the cap. Calls on their way were awaited and kept.
        ModelUnavailable: the address, the key, the account, the model's name; or half of the latest tries failed.
        KeyboardInterrupt: Ctrl-C, with a sentence that says where it stopped. Calls on their way were awaited and kept;
            a second Ctrl-C leaves them uncertain.
    """
    if ledger.batches.open(model=spec.model, simulated=simulated):
        from curation.models.batch_runner import ask_batch  # which itself asks one by one

        ask_batch(
            (), model=model, spec=spec, ledger=ledger, budget_usd=budget_usd, simulated=simulated, progress=progress, patience=patience
        )
    return asyncio.run(
        ask_async(
            requests,
            model=model,
            spec=spec,
            ledger=ledger,
            budget_usd=budget_usd,
            simulated=simulated,
            progress=progress,
            patience=patience,
            check=check,
        )
    )
