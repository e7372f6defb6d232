"""What a model may be trained on: the known terms of whoever wrote the rows, from a dated file with its sources."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

import yaml

from curation.config.project import IntendedKind, ModelSpec
from curation.errors import ProjectError
from curation.models.pricing import family


@dataclass(frozen=True)
class Terms:
    """What one provider's terms say."""

    name: str
    clause: str
    says: str
    source: str
    date: str
    forbids: tuple[str, ...]
    asks: tuple[str, ...]
    """Kinds for which it depends on what only the project's people know."""
    question: str


def find_terms(spec: ModelSpec) -> Terms | None:
    """The terms under which a model writes: its provider's, or where others serve it those of its weights. None: not known here."""
    listed = _listed()
    is_served_by_its_maker = spec.provider == "anthropic" or (spec.provider == "openai" and spec.base_url is None)
    if is_served_by_its_maker:
        return listed["providers"].get(spec.provider)
    return listed["families"].get(family(spec.model)) if spec.provider != "offline-stand-in" else None


def check_terms(writers: Iterable[ModelSpec], kind: IntendedKind) -> list[str]:
    """What to think about before training on what these models write.

    Raises:
        ProjectError: the terms of one of them are known to forbid it.
    """
    notes = dict[str, None]()
    for spec in writers:
        terms = find_terms(spec)
        if terms is None:
            continue
        where = f"{terms.clause}, as of {terms.date}: {terms.source}"
        if kind in terms.forbids:
            fact = f"is {kind}, which {terms.name}'s terms forbid for what {spec.model} writes: {terms.says} ({where})"
            raise ProjectError("project.yaml: intended_kind", fact, "name another teacher, or the kind the model really is, and run again")
        if kind in terms.asks:
            notes[f"Terms of {terms.name} ({where}): {terms.question}"] = None
    return list(notes)


@functools.cache
def _listed() -> dict[str, dict[str, Terms]]:
    text = (files("curation.models") / "terms.yaml").read_text(encoding="utf-8")
    return {group: {name: _terms(entry) for name, entry in entries.items()} for group, entries in yaml.safe_load(text).items()}


def _terms(entry: dict[str, Any]) -> Terms:
    lists = {name: tuple(entry[name]) for name in ("forbids", "asks")}
    return Terms(**{**entry, **lists, "date": str(entry["date"])})
