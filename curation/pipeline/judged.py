"""What the judges have said, read from the facts: each judge by itself and all of them together. Core: score/."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from curation import score as scoring
from curation.pipeline.bench import Bench
from curation.project import ModelSpec
from curation.store import facts

Choices = Mapping[str, int | None]
"""Order shown to winner (canonical index, None for a tie)."""


@dataclass(frozen=True)
class Judged:
    """All that one judge has said under the present rubric."""

    name: str
    """The model, told apart by its place where two ways to serve it have one name."""
    spec: ModelSpec
    values: Mapping[int, Mapping[str, int]]
    """Criterion (and `overall`) to 1..5, by seq."""
    totals: Mapping[int, float]
    choices: Mapping[int, Choices]


def judged_by(bench: Bench) -> tuple[Judged, ...]:
    """Every judge's words, the first judge first."""
    judges = scoring.judges_of(bench.project)
    models = [spec.model for spec in judges]
    names = [model if models.index(model) == place else f"{model} ({place + 1})" for place, model in enumerate(models)]
    return tuple(_judged(bench, name, spec) for name, spec in zip(names, judges, strict=True))


def totals_by_seq(bench: Bench) -> dict[int, float]:
    """Total (0 to 10) of every record scored under the present rubric, over all judges that have scored it."""
    how = bench.project.score.combine
    return {seq: scoring.combine(totals, how) for seq, totals in totals_together(judged_by(bench)).items()}


def totals_together(judged: tuple[Judged, ...]) -> dict[int, list[float]]:
    """Every judge's total of each record; judges that have not scored it are left out."""
    out: dict[int, list[float]] = {}
    for judge in judged:
        for seq, total in judge.totals.items():
            out.setdefault(seq, []).append(total)
    return out


def choices_by_seq(bench: Bench) -> dict[int, tuple[Choices, ...]]:
    """For each pair what every judge chose, the first judge first; judges that have not seen it are left out."""
    out: dict[int, list[Choices]] = {}
    for judge in judged_by(bench):
        for seq, by_order in judge.choices.items():
            out.setdefault(seq, []).append(by_order)
    return {seq: tuple(given) for seq, given in out.items()}


def _judged(bench: Bench, name: str, spec: ModelSpec) -> Judged:
    criteria = set(bench.project.score.rubric)
    values = facts.scores_by_seq(bench.db, scoring.rubric_digest(bench.project, spec))
    totals = {
        seq: scoring.total_of({c: v for c, v in given.items() if c in criteria})
        for seq, given in values.items()
        if criteria <= given.keys()
    }
    return Judged(name, spec, values, totals, facts.choices_by_seq(bench.db, scoring.pair_digest(bench.project, spec)))
