"""Which cell gets which values: by weights, in exact quotas where there are any, and so that a plan can grow."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations

import numpy as np

from curation.errors import ProjectError
from curation.project import Quota

Weights = Mapping[str, Mapping[str, float]]


def spread_attributes(attributes: Weights, count: int, *, seed: str, quotas: Sequence[Quota] = ()) -> list[dict[str, str]]:
    """Give each cell the values that are furthest behind their weights, alone and in each pair of attributes.

    Minimization (Pocock and Simon 1975): at every length the counts stay within a cell or two of their weights' share, so a plan
    can grow, and no attribute predicts another. The cells of quotas come first; after them no cell falls into a quota.
    """
    _check_quotas(attributes, quotas, count)
    spread = _Spread({name: shares_of(name, values) for name, values in attributes.items()}, random.Random(f"{seed}:attributes"))
    fixed = [quota.where for quota in quotas for _ in range(quota.cells)]
    chosen = [spread.choose(n, given=where) for n, where in enumerate(fixed)]
    taken = [quota.where for quota in quotas]
    for n in range(len(fixed), count):
        values = spread.choose(n, without=taken)
        if values is None:
            raise ProjectError(
                "project.yaml: plan.quotas",
                f"take every combination there is, and {count - n} more cells are planned",
                "raise a quota, or lower the number of examples to the sum of the quotas",
            )
        chosen.append(values)
    return [values for values in chosen if values is not None]


def spread_evenly(weights: Mapping[int, float], count: int) -> list[int]:
    """COUNT numbers, at every length as near to their weights' share as can be."""
    shares = shares_of("turns", {str(n): w for n, w in weights.items()})
    seen = dict.fromkeys(shares, 0)
    spread = []
    for done in range(count):
        value = max(shares, key=lambda v: shares[v] * (done + 1) - seen[v])
        seen[value] += 1
        spread.append(int(value))
    return spread


def shares_of(name: str, values: Mapping[str, float]) -> dict[str, float]:
    """Weights as shares of 1; values without weight are left out."""
    total = sum(values.values())
    if min(values.values(), default=-1.0) < 0 or total <= 0:
        raise ProjectError(
            f"project.yaml: plan.attributes.{name}", "has no weight above 0, or one below it", "give each value a weight, for example 1"
        )
    return {value: weight / total for value, weight in values.items() if weight > 0}


class _Spread:
    """The counts so far. Arrays, because a list of topics may have thousands of values."""

    def __init__(self, shares: Mapping[str, Mapping[str, float]], random_: random.Random) -> None:
        self.names, self.random = list(shares), random_
        self.values = {name: list(given) for name, given in shares.items()}
        self.shares = {name: np.array(list(given.values())) for name, given in shares.items()}
        self.place = {name: {value: n for n, value in enumerate(given)} for name, given in shares.items()}
        self.seen = {name: np.zeros(len(given)) for name, given in shares.items()}
        self.pairs = {(a, b): np.zeros((len(shares[a]), len(shares[b]))) for a, b in combinations(self.names, 2)}

    def choose(
        self, done: int, *, given: Mapping[str, str] | None = None, without: Sequence[Mapping[str, str]] = ()
    ) -> dict[str, str] | None:
        """The values of the next cell; None when every combination is barred."""
        chosen = self._extend({}, done, given or {}, without)
        if chosen is None:
            return None
        for name, place in chosen.items():
            self.seen[name][place] += 1
        for a, b in combinations(self.names, 2):
            self.pairs[a, b][chosen[a], chosen[b]] += 1
        return {name: self.values[name][place] for name, place in chosen.items()}

    def _extend(
        self, chosen: dict[str, int], done: int, given: Mapping[str, str], without: Sequence[Mapping[str, str]]
    ) -> dict[str, int] | None:
        """One attribute after the other; where all values of one are barred, back to the next best of the one before."""
        if len(chosen) == len(self.names):
            return chosen
        name = self.names[len(chosen)]
        for place in [self.place[name][given[name]]] if name in given else self._by_need(name, chosen, done):
            longer = {**chosen, name: place}
            if any(self._is_within(longer, barred) for barred in without):
                continue
            if (found := self._extend(longer, done, given, without)) is not None:
                return found
        return None

    def _by_need(self, name: str, chosen: Mapping[str, int], done: int) -> Iterator[int]:
        shares = self.shares[name]
        pairs = np.zeros(len(shares))
        for other, taken in chosen.items():
            pairs = pairs + (self.shares[other][taken] * shares * (done + 1) - self.pairs[other, name][taken])
        noise = np.array([self.random.random() for _ in range(len(shares))])
        behind = shares * (done + 1) - self.seen[name] + 0.5 * pairs + 1e-6 * noise
        yield int(np.argmax(behind))
        yield from (int(n) for n in np.argsort(-behind, kind="stable")[1:])

    def _is_within(self, chosen: Mapping[str, int], barred: Mapping[str, str]) -> bool:
        return all(name in chosen and self.values[name][chosen[name]] == value for name, value in barred.items())


def _check_quotas(attributes: Weights, quotas: Sequence[Quota], count: int) -> None:
    for place, quota in enumerate(quotas):
        what = f"project.yaml: plan.quotas.{place}"
        for name, value in quota.where.items():
            if name not in attributes:
                raise ProjectError(what, f"names the attribute `{name}`; there are {', '.join(attributes) or 'none'}", "mend the name")
            if attributes[name].get(value, 0) <= 0:
                known = ", ".join(list(attributes[name])[:12])
                raise ProjectError(what, f"names `{value}` of `{name}`, which has {known}", "mend the value, or give it a weight")
        for other_place, other in enumerate(quotas[:place]):
            if all(quota.where.get(name, value) == value for name, value in other.where.items()):
                fact = f"and plan.quotas.{other_place} can hold the same cell"
                raise ProjectError(what, fact, "make the two differ in the value of one attribute")
    if (total := sum(quota.cells for quota in quotas)) > count:
        raise ProjectError("project.yaml: plan.quotas", f"ask for {total} cells, the plan for {count}", "raise the number of examples")
