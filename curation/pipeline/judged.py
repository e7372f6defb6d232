"""What the judges have said, read from the facts: each judge by itself and all of them together. Core: score/."""

from __future__ import annotations

from collections.abc import Mapping

from curation import score as scoring
from curation.pipeline.bench import Bench
from curation.store import facts

Choices = Mapping[str, int | None]
"""Order shown to winner (canonical index, None for a tie)."""


def totals_by_seq(bench: Bench) -> dict[int, float]:
    """Total (0 to 10) of every record scored under the present rubric, over all judges that have scored it."""
    gathered: dict[int, list[float]] = {}
    for totals in judge_totals(bench).values():
        for seq, total in totals.items():
            gathered.setdefault(seq, []).append(total)
    how = bench.project.score.combine
    return {seq: scoring.combine(totals, how) for seq, totals in gathered.items()}


def judge_totals(bench: Bench) -> dict[str, dict[int, float]]:
    """Each judge's totals by seq, the first judge first."""
    criteria = set(bench.project.score.rubric)
    out = {}
    for name, values_by_seq in judge_values(bench).items():
        out[name] = {
            seq: scoring.total_of({c: v for c, v in values.items() if c in criteria})
            for seq, values in values_by_seq.items()
            if criteria <= values.keys()
        }
    return out


def judge_values(bench: Bench) -> dict[str, dict[int, dict[str, int]]]:
    """Each judge's scores (criterion to 1..5) by seq, the first judge first."""
    judges = scoring.judges_of(bench.project)
    names = _names([spec.model for spec in judges])
    return {
        name: facts.scores_by_seq(bench.db, scoring.rubric_digest(bench.project, spec)) for name, spec in zip(names, judges, strict=True)
    }


def judge_choices(bench: Bench) -> dict[str, dict[int, dict[str, int | None]]]:
    """Each judge's choices by seq, the first judge first."""
    judges = scoring.judges_of(bench.project)
    names = _names([spec.model for spec in judges])
    return {
        name: facts.choices_by_seq(bench.db, scoring.pair_digest(bench.project, spec)) for name, spec in zip(names, judges, strict=True)
    }


def choices_by_seq(bench: Bench) -> dict[int, tuple[Choices, ...]]:
    """For each pair what every judge chose, the first judge first; judges that have not seen it are left out."""
    out: dict[int, list[Choices]] = {}
    for choices in judge_choices(bench).values():
        for seq, by_order in choices.items():
            out.setdefault(seq, []).append(by_order)
    return {seq: tuple(given) for seq, given in out.items()}


def _names(models: list[str]) -> list[str]:
    """Models served in two ways may have one name: the later one is told apart by its place."""
    return [model if models.index(model) == place else f"{model} ({place + 1})" for place, model in enumerate(models)]
