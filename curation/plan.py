"""The plan: which example is written about what. A cell names attributes (task, difficulty, persona …) and, in a grounded
project, the table row it is written about and the rows it could be confused with.

The plan depends on the seed and the table alone, and raising a count only appends cells: answers already bought stay good.
"""

from __future__ import annotations

import random
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import BaseModel, ConfigDict

from curation.errors import ProjectError
from curation.project import Grounding, Project, planned_rows
from curation.records import Kind

SIBLINGS_SHOWN = 5
"""Plausible confusions given to the teacher for one pair; more would only lengthen the request."""

Row = dict[str, Any]


class Cell(BaseModel):
    """One example to write."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str
    """Kind and ordinal: "instruction:00042"."""
    kind: Kind
    ordinal: int
    attributes: dict[str, str]
    key: str | None = None
    """Key of the table row the example is about."""
    row: Row | None = None
    """The columns of that row that the teacher may see, protected texts taken out."""
    siblings: tuple[Row, ...] = ()
    """Rows that could plausibly be confused with it, for preference pairs."""
    visit: int = 0
    """How many earlier cells of this kind are about the same row."""


def make_plan(project: Project, *, table: pa.Table | None, protected_texts: Collection[str]) -> list[Cell]:
    """Every cell of the project, instructions first.

    Rows are taken in turns over the topics, each row once before any comes again; preference cells walk each topic from
    the other end, so that the two kinds share rows only when they must.

    Raises:
        ProjectError: a column is missing, no row is left to write about, or an attribute has no weight.
    """
    pools = _pools(project, table, {normalized(text) for text in protected_texts})
    cells: list[Cell] = []
    for kind, count in planned_rows(project).items():
        attributes = _spread_attributes(project.plan.attributes, count, seed=f"{project.plan.seed}:{kind}")
        rows = _walk_rows(pools[kind], project.plan.grounding, seed=project.plan.seed, backwards=kind == "preference")
        cells += [_cell(kind, i, attributes[i], next(rows), project) for i in range(count)]
    return cells


def normalized(text: str) -> str:
    """The text without case, punctuation and spacing: how a protected text is recognised exactly."""
    return re.sub(r"[\W_]+", " ", unicodedata.normalize("NFKC", text).casefold()).strip()


def coverage(cells: Sequence[Cell], done: Collection[str]) -> dict[str, dict[str, tuple[int, int]]]:
    """For each attribute and value, how many cells have a record (ids in DONE) and how many were planned."""
    planned: dict[str, Counter[str]] = defaultdict(Counter)
    reached: dict[str, Counter[str]] = defaultdict(Counter)
    for cell in cells:
        for name, value in {"kind": cell.kind, **cell.attributes}.items():
            planned[name][value] += 1
            reached[name][value] += cell.id in done
    return {name: {value: (reached[name][value], n) for value, n in values.items()} for name, values in planned.items()}


def _cell(kind: Kind, ordinal: int, attributes: dict[str, str], walked: tuple[Row, int] | None, project: Project) -> Cell:
    row, visit = walked or ({}, 0)
    key, grounding = row.get("key"), project.plan.grounding
    siblings = list(row.get("siblings", ())) if kind == "preference" else []
    random.Random(f"{project.plan.seed}:{key}:siblings").shuffle(siblings)
    return Cell(
        id=f"{kind}:{ordinal:05d}",
        kind=kind,
        ordinal=ordinal,
        attributes=attributes,
        key=None if grounding is None else key,
        row=row.get("shown"),
        siblings=tuple(siblings[:SIBLINGS_SHOWN]),
        visit=visit,
    )


def _spread_attributes(attributes: Mapping[str, Mapping[str, float]], count: int, *, seed: str) -> list[dict[str, str]]:
    """Give each cell the values that are furthest behind their weights, alone and in each pair of attributes.

    Minimization (Pocock and Simon 1975): at every length the counts stay within a cell or two of their quotas, so a plan
    can grow, and no attribute predicts another.
    """
    weights = {name: _shares(name, values) for name, values in attributes.items()}
    seen: Counter[tuple[str, ...]] = Counter()
    random_ = random.Random(f"{seed}:attributes")
    spread = []
    for done in range(count):
        chosen: dict[str, str] = {}
        for name, shares in weights.items():
            behind = {}
            for value, share in shares.items():
                pairs = (weights[other][taken] * share * (done + 1) - seen[other, taken, name, value] for other, taken in chosen.items())
                behind[value] = share * (done + 1) - seen[name, value] + 0.5 * sum(pairs) + 1e-6 * random_.random()
            chosen[name] = max(behind, key=lambda value: behind[value])
        for name, value in chosen.items():
            seen[name, value] += 1
        seen.update((a, va, b, vb) for i, (a, va) in enumerate(chosen.items()) for b, vb in list(chosen.items())[i + 1 :])
        spread.append(chosen)
    return spread


def _shares(name: str, values: Mapping[str, float]) -> dict[str, float]:
    total = sum(values.values())
    if min(values.values(), default=-1.0) < 0 or total <= 0:
        raise ProjectError(
            f"project.yaml: plan.attributes.{name}", "has no weight above 0, or one below it", "give each value a weight, for example 1"
        )
    return {value: weight / total for value, weight in values.items() if weight > 0}


def _pools(project: Project, table: pa.Table | None, protected: set[str]) -> dict[Kind, list[Row]]:
    """The rows that may be written about, for each kind, with what may be shown of them and of their siblings."""
    grounding = project.plan.grounding
    if grounding is None:
        return {"instruction": [], "preference": []}
    if table is None:
        raise ProjectError(
            f"project.yaml: plan.grounding.table: {grounding.table}", "was not found", "put the table there, or remove plan.grounding"
        )
    _check_columns(grounding, table)
    inside = table.filter(pc.equal(table[grounding.where], True)) if grounding.where else table
    pool = [row for row in map(lambda r: _shown(r, grounding, protected), inside.to_pylist()) if row]
    families = _families(grounding, table, {row["family"] for row in pool}, protected)
    for row in pool:
        row["siblings"] = [other["shown"] for other in families.get(row["family"], ()) if other["key"] != row["key"]]
    pairs = [row for row in pool if row["siblings"]] if grounding.siblings else pool
    for kind, rows in (("instruction", pool), ("preference", pairs)):
        if not rows and planned_rows(project)[kind]:  # type: ignore[index]
            raise ProjectError(
                f"project.yaml: plan.{kind}",
                f"no row of {grounding.table} can be written about",
                "look at plan.grounding.where and siblings",
            )
    return {"instruction": pool, "preference": pairs}


def _families(grounding: Grounding, table: pa.Table, wanted: set[Any], protected: set[str]) -> dict[Any, list[Row]]:
    if grounding.siblings is None:
        return {}
    known = pa.array(sorted(w for w in wanted if w is not None), type=table[grounding.siblings].type)
    mask = pc.is_in(table[grounding.siblings], value_set=known)
    if grounding.sibling_where:
        mask = pc.and_(mask, pc.equal(table[grounding.sibling_where], True))
    families: dict[Any, list[Row]] = defaultdict(list)
    for row in table.filter(mask).to_pylist():
        if shown := _shown(row, grounding, protected):
            families[shown["family"]].append(shown)
    return families


def _shown(row: Row, grounding: Grounding, protected: set[str]) -> Row | None:
    """What may be shown of a row, or None when what it is called is itself protected."""
    shown: Row = {}
    for column in grounding.show or tuple(row):
        value = row[column]
        if isinstance(value, str) and normalized(value) in protected:
            return None
        shown[column] = [v for v in value if not _holds(normalized(str(v)), protected)] if isinstance(value, list) else value
    topic = row[grounding.topic] if grounding.topic else None
    family = row[grounding.siblings] if grounding.siblings else None
    return {"key": str(row[grounding.key]), "shown": shown, "topic": topic, "family": family}


def _holds(text: str, protected: set[str]) -> bool:
    """Whether a run of the text's words is a protected text; a longer name with it inside gives it away too."""
    words = text.split()
    return any(" ".join(words[i:j]) in protected for i in range(len(words)) for j in range(i + 1, len(words) + 1))


def _walk_rows(pool: Sequence[Row], grounding: Grounding | None, *, seed: int, backwards: bool) -> Iterator[tuple[Row, int] | None]:
    """Every row once, topics in turns, then all again in another order, without end; None for ever without a table."""
    if grounding is None or not pool:
        while True:
            yield None
    visit = 0
    while True:
        random_ = random.Random(f"{seed}:rows:{visit}")
        topics: dict[Any, list[Row]] = defaultdict(list)
        for row in random_.sample(pool, len(pool)):
            topics[row["topic"]].append(row)
        queues = [topics[topic] for topic in random_.sample(sorted(topics, key=str), len(topics))]
        while any(queues):
            for queue in filter(None, queues):
                yield queue.pop(-1 if backwards else 0), visit
        visit += 1


def _check_columns(grounding: Grounding, table: pa.Table) -> None:
    named = {
        "key": (grounding.key,),
        "where": (grounding.where,),
        "topic": (grounding.topic,),
        "show": grounding.show,
        "siblings": (grounding.siblings,),
        "sibling_where": (grounding.sibling_where,),
    }
    for field, columns in named.items():
        for column in columns:
            if column is not None and column not in table.column_names:
                raise ProjectError(
                    f"project.yaml: plan.grounding.{field}",
                    f"names the column `{column}`; {grounding.table} has {', '.join(table.column_names)}",
                    "mend the name in project.yaml",
                )
    for field in ("where", "sibling_where"):
        column = named[field][0]
        if column is not None and not pa.types.is_boolean(table[column].type):
            raise ProjectError(
                f"project.yaml: plan.grounding.{field}",
                f"names `{column}`, which holds {table[column].type} and not true or false",
                "name a true/false column, or remove the key",
            )
