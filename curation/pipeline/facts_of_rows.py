"""Gather what the report shows of the rows as a whole: balance and diversity. Read-only. Core: report/whole.py."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from curation import report as page
from curation.balance import Imbalance
from curation.difficulty import Method, count_words, cross_difficulty
from curation.pipeline.balancing import load_balance
from curation.pipeline.bench import Bench, load_cells
from curation.pipeline.judged import judged_by
from curation.pipeline.keeping import better_candidate
from curation.pipeline.measuring import latest_diversity
from curation.records import KINDS, Kind
from curation.score import DIFFICULTY
from curation.store import records
from curation.store.records import Row


def balance_facts(bench: Bench) -> tuple[page.ClassBalance, ...] | None:
    """What the latest `curate balance` found, the largest class first; None when it has not run."""
    found = load_balance(bench)
    return None if found is None else tuple(_balance_of(bench, kind, found[kind], found["by"]) for kind in KINDS if kind in found)


def difficulty_facts(bench: Bench, rows_of: Mapping[Kind, Sequence[Row]]) -> tuple[page.DifficultyCross, ...]:
    """How hard the written rows are beside the difficulty planned, by the judge where it was asked, else by the answer's length."""
    order = list(bench.project.plan.attributes.get(DIFFICULTY, ()))
    planned = {cell.id: cell.attributes.get(DIFFICULTY) for cell in load_cells(bench)} if len(order) > 1 else {}
    rated = _rated_by_judges(bench)
    found = []
    for kind in KINDS:
        rows = [row for row in rows_of[kind] if planned.get(row.cell or "") in order]
        candidates = {r.id: r.seq for r in records.list_rows(bench.db, "instruction", role="candidate")} if kind == "preference" else {}
        places = {row.seq: row.seq if kind == "instruction" else better_candidate(row, candidates) for row in rows}
        by_judge = [row for row in rows if places[row.seq] in rated]
        method: Method = "judge" if by_judge else "length"
        rows = by_judge or rows
        if not rows:
            continue
        measured = [rated[places[row.seq]] if by_judge else float(count_words(row.answers[row.better or 0])) for row in rows]
        table = cross_difficulty([str(planned[row.cell or ""]) for row in rows], measured, order=order, method=method)
        rho = table.correlation
        found.append(
            page.DifficultyCross(
                kind=kind,
                method=method,
                levels=tuple(page.DifficultyLevel(**vars(level)) for level in table.levels),
                bins=table.bins,
                correlation=(rho.value, rho.low, rho.high, rho.n) if rho else None,
                disagreeing=table.disagreeing,
                furthest=tuple(rows[place].id for place in table.furthest),
            )
        )
    return tuple(found)


def _rated_by_judges(bench: Bench) -> dict[int, float]:
    """Mean of the judges' difficulty of each record by seq, where they were asked for it."""
    if not bench.project.score.difficulty:
        return {}
    given: dict[int, list[int]] = {}
    for judge in judged_by(bench):
        for seq, values in judge.values.items():
            if DIFFICULTY in values:
                given.setdefault(seq, []).append(values[DIFFICULTY])
    return {seq: fmean(values) for seq, values in given.items()}


def diversity_facts(bench: Bench, *, simulated: bool) -> page.DiversityFacts | None:
    """What the latest `curate diversity` found; None when it has not run."""
    found = latest_diversity(bench)
    if found is None:
        return None
    names = {"planned": "planned, as many rows", "naive": "without a plan"}
    return page.DiversityFacts(
        whole=_diversity_of("rows that stand", found["set"]),
        compared=tuple(_diversity_of(label, found[name]) for name, label in names.items() if name in found),
        vendi_ratio=found.get("vendi_ratio"),
        cells=found["coverage"]["cells"],
        filled=found["coverage"]["filled"],
        simulated=simulated,
    )


def _balance_of(bench: Bench, kind: Kind, line: Mapping[str, Any], by: str) -> page.ClassBalance:
    classes = [
        page.BalancedClass(
            name=name, before=before, after=after, weight=line["weights"].get(name), missing=line["refill"].get(name, 0)
        )
        for name, (before, after) in line["counts"].items()
    ]  # fmt: skip
    return page.ClassBalance(
        kind=kind,
        by=by,
        rule=line["rule"],
        classes=tuple(sorted(classes, key=lambda c: (-c.before, c.name))),
        before=Imbalance.model_validate(line["before"]),
        after=Imbalance.model_validate(line["after"]),
        without=line["without"],
    )


def _diversity_of(name: str, values: Mapping[str, Any]) -> page.DiversityOf:
    return page.DiversityOf(name=name, **{key: values[key] for key in ("rows", "distinct", "effective_clusters", "nearest", "vendi")})
