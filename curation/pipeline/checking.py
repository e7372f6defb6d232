"""What is looked at before anything is bought: whether every named model is there, and whether its terms allow the use."""

from __future__ import annotations

import os
from typing import Any

from curation import models, standin_address
from curation.errors import ModelUnavailable
from curation.pipeline.bench import Bench
from curation.project import ModelSpec

_STAND_IN = "offline-stand-in"


def check_before(bench: Bench) -> tuple[dict[str, str], list[str]]:
    """Return what is known of the model of each role, and what to think about. Nothing is billed; an absent network stops nothing.

    Judges that no stage asks, because the project has no judge, are left out.

    Raises:
        ProjectError: a model has no price, or its terms forbid what the project is for.
        ModelUnavailable: a provider says that a model is not there, is retired, or that the key is not good.
    """
    named = bench.project.models
    notes = models.check_terms((named.teacher, *named.writers), bench.project.intended_kind)
    is_judged = not bench.project.score.is_off
    notes += [warning] if is_judged and (warning := models.same_family(named)) else []
    asked_leaks = bench.project.screen.judge and named.leak_judge is None
    shown, known = dict[str, str](), dict[tuple[Any, ...], str | models.ModelInfo]()
    for role, spec in named.named():
        if not is_judged and (role.startswith("panel") or (role == "judge" and not asked_leaks)):
            continue
        models.find_rates(spec)
        place = (spec.provider, spec.model, spec.base_url, spec.key_env, spec.max_tokens, spec.batch)
        if place not in known:
            known[place] = _look_at(bench, spec)
            notes += [_last_word(known[place])] if _last_word(known[place]) else []
        shown[role] = _describe(spec, known[place])
    return shown, [f"Note: {note}." for note in notes]


def _look_at(bench: Bench, spec: ModelSpec) -> models.ModelInfo | str:
    """What the provider says of a model, or why it was not asked."""
    if not models.has_key(spec, os.environ):
        return f"not checked: no key in {models.key_name(spec)}"
    try:
        base_url = spec.base_url or (standin_address.read_address(bench.folder) if spec.provider == _STAND_IN else None)
        return models.check_model(spec, environ=os.environ, base_url=base_url, folder=bench.folder)
    except models.NotReached as error:
        return f"not checked: {error.fact}"
    except ModelUnavailable as error:
        if spec.provider == _STAND_IN and not (bench.folder / standin_address.STATE).is_file():
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
