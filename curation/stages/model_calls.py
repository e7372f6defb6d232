"""How every stage asks a model: what has no answer yet, within the budget, each response on disk before it is read. Core: models/."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import Any

from curation import models
from curation.config.project import ModelSpec
from curation.errors import ModelUnavailable
from curation.models import factory
from curation.requests import Answer, Failure, Request
from curation.store.database import CallLedger
from curation.views.runs import is_simulated
from curation.workspace import Progress, Workspace


def ask(
    workspace: Workspace,
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
        models.check_terms([spec], workspace.project.intended_kind)
    simulated = is_simulated(spec)
    base_url = spec.base_url or (factory.read_address(workspace.folder) if simulated else None)

    def tell(at: models.AskProgress) -> None:
        if progress:
            rate = at.answered / at.seconds if at.seconds else 0.0
            progress(todo[0].stage, at.done, at.total or len(todo), f"${at.cost_usd:.3f}, {rate:.1f}/s, {at.failed} failed")

    send = models.ask_batch if spec.batch else models.ask
    with models.stage_span(todo[0].stage, spec, calls=len(todo)):
        send(
            todo,
            model=models.open_model(spec, environ=os.environ, base_url=base_url, folder=workspace.folder),
            spec=spec,
            ledger=CallLedger(workspace.db),
            budget_usd=workspace.project.budget.usd,
            simulated=simulated,
            progress=tell,
            check=models.AnswerCheck(read, workspace.project.budget.failures_in_a_row),
        )


def settle_earlier(workspace: Workspace) -> list[str]:
    """Read what an earlier run kept and did not live to read, whatever model it asked; notes on batches that nobody will fetch."""
    ledger = CallLedger(workspace.db)
    named = {spec.model: spec for _, spec in workspace.project.models.named()}
    for provider, model in ledger.unsettled_models():
        models.settle_kept(ledger, named.get(model) or ModelSpec.model_validate({"provider": provider, "model": model}))
    return [
        f"Calls to {model} ({calls:,}) wait in a batch at the provider, and project.yaml no longer names that model. "
        "They are held in the budget; name it again and run once more to fetch them."
        for model, calls in ledger.batches.left_behind(list(named))
    ]


_STAND_IN = "offline-stand-in"


def check_before(workspace: Workspace) -> tuple[dict[str, str], list[str]]:
    """Return what is known of the model of each role, and what to think about. Nothing is billed; an absent network stops nothing.

    Judges that no stage asks, because the project has no judge, are left out.

    Raises:
        ProjectError: a model has no price, or its terms forbid what the project is for.
        ModelUnavailable: a provider says that a model is not there, is retired, or that the key is not good.
    """
    named = workspace.project.models
    notes = models.check_terms((named.teacher, *named.writers), workspace.project.intended_kind)
    is_judged = not workspace.project.score.is_off
    notes += [warning] if is_judged and (warning := models.same_family(named)) else []
    asked_leaks = workspace.project.screen.judge and named.leak_judge is None
    shown, known = dict[str, str](), dict[tuple[Any, ...], str | models.ModelInfo]()
    for role, spec in named.named():
        if not is_judged and (role.startswith("panel") or (role == "judge" and not asked_leaks)):
            continue
        models.find_rates(spec)
        place = (spec.provider, spec.model, spec.base_url, spec.key_env, spec.max_tokens, spec.batch)
        if place not in known:
            known[place] = _look_at(workspace, spec)
            notes += [_last_word(known[place])] if _last_word(known[place]) else []
        shown[role] = _describe(spec, known[place])
    return shown, [f"Note: {note}." for note in notes]


def _look_at(workspace: Workspace, spec: ModelSpec) -> models.ModelInfo | str:
    """What the provider says of a model, or why it was not asked."""
    if not models.has_key(spec, os.environ):
        return f"not checked: no key in {models.key_name(spec)}"
    try:
        base_url = spec.base_url or (factory.read_address(workspace.folder) if spec.provider == _STAND_IN else None)
        return models.check_model(spec, environ=os.environ, base_url=base_url, folder=workspace.folder)
    except models.NotReached as error:
        return f"not checked: {error.fact}"
    except ModelUnavailable as error:
        if spec.provider == _STAND_IN and not (workspace.folder / factory.STATE).is_file():
            return f"not checked: {error.what} {error.fact}"
        raise


def _describe(spec: ModelSpec, found: models.ModelInfo | str) -> str:
    if isinstance(found, str):
        return f"{spec.model}, {found}"
    context = f"{found.max_input_tokens:,} tokens of context" if found.max_input_tokens else "context not told"
    batches = {True: "takes batches", False: "no batches", None: "batches not told"}[found.takes_batches]
    life = f"until {found.retires}" if found.retires else "no end of life announced" if found.lifecycle == "active" else found.lifecycle
    return f"{spec.model}, {context}, {batches}, {life}"


def _last_word(found: models.ModelInfo | str) -> str:
    return "" if isinstance(found, str) else found.warning or ""
