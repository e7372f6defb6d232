"""Gather what the report shows of the rows as a whole: balance and diversity. Read-only. Core: report/whole.py."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from curation import report as page
from curation.balance import Imbalance
from curation.pipeline.balancing import load_balance
from curation.pipeline.bench import Bench
from curation.pipeline.measuring import latest_diversity
from curation.records import KINDS, Kind


def balance_facts(bench: Bench) -> tuple[page.ClassBalance, ...] | None:
    """What the latest `curate balance` found, the largest class first; None when it has not run."""
    found = load_balance(bench)
    return None if found is None else tuple(_balance_of(bench, kind, found[kind], found["by"]) for kind in KINDS if kind in found)


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
