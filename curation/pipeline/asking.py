"""How every stage asks a model: what has no answer yet, within the budget, each response on disk before it is read. Core: models/."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable

from curation import models, standin_address
from curation.pipeline.bench import Bench
from curation.project import ModelSpec
from curation.requests import Answer, Failure, Request
from curation.store import CallLedger, facts

Progress = Callable[[str, int, int, str], None]
"""Told (stage, done, total, a few words)."""


def ask(
    bench: Bench,
    requests: Iterable[Request],
    spec: ModelSpec,
    *,
    progress: Progress | None,
    read: Callable[[Answer], Failure | None],
) -> None:
    """Send what has no answer yet. The model is opened only when there is something to send.

    Args:
        bench: the project.
        requests: what to ask.
        spec: whom to ask.
        progress: told how far it is.
        read: returns why an answer cannot be used, and None where it can.

    Raises:
        BudgetReached: the next call could pass budget.usd.
        UnusableAnswers: budget.failures_in_a_row answers in a row could not be used.
    """
    todo = list(requests)
    if not todo:
        return
    if todo[0].role == "teacher":
        models.check_terms([spec], bench.project.intended_kind)
    simulated = is_simulated(spec)
    base_url = spec.base_url or (standin_address.read_address(bench.folder) if simulated else None)

    def tell(at: models.AskProgress) -> None:
        if progress:
            rate = at.answered / at.seconds if at.seconds else 0.0
            progress(todo[0].stage, at.done, at.total or len(todo), f"${at.cost_usd:.3f}, {rate:.1f}/s, {at.failed} failed")

    send = models.ask_batch if spec.batch else models.ask
    with models.stage_span(todo[0].stage, spec, calls=len(todo)):
        send(
            todo,
            model=models.open_model(spec, environ=os.environ, base_url=base_url, folder=bench.folder),
            spec=spec,
            ledger=CallLedger(bench.db),
            budget_usd=bench.project.budget.usd,
            simulated=simulated,
            progress=tell,
            check=models.AnswerCheck(read, bench.project.budget.failures_in_a_row),
        )


def settle_earlier(bench: Bench) -> list[str]:
    """Read what an earlier run kept and did not live to read, whatever model it asked; notes on batches that nobody will fetch."""
    ledger = CallLedger(bench.db)
    named = {spec.model: spec for _, spec in bench.project.models.named()}
    for provider, model in ledger.unsettled_models():
        models.settle_kept(ledger, named.get(model) or ModelSpec.model_validate({"provider": provider, "model": model}))
    return [
        f"Calls to {model} ({calls:,}) wait in a batch at the provider, and project.yaml no longer names that model. "
        "They are held in the budget; name it again and run once more to fetch them."
        for model, calls in ledger.batches.left_behind(list(named))
    ]


def is_simulated(spec: ModelSpec) -> bool:
    """Whether the offline stand-in answers for this model; its answers and its money never mix with real ones."""
    return spec.provider == "offline-stand-in"


def count_failed(bench: Bench, stage: str) -> dict[str, int]:
    """Reason to count: answers that could not be used, and calls that got none."""
    unanswered = Counter(failure.reason for failure in CallLedger(bench.db).failures(stage))
    return dict(Counter(facts.failure_counts(bench.db).get(stage, {})) + unanswered)
