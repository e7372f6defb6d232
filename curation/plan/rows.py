"""The table rows that cells are written about: which may be, what of them may be shown, and in which order they come."""

from __future__ import annotations

import random
import re
import unicodedata
from collections import defaultdict, deque
from collections.abc import Collection, Iterator, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from curation.errors import ProjectError
from curation.plan.cells import Row
from curation.project import Grounding, Project, planned_rows
from curation.records import Kind


def normalized(text: str) -> str:
    """The text without case, punctuation and spacing: how a protected text is recognised exactly."""
    return re.sub(r"[\W_]+", " ", unicodedata.normalize("NFKC", text).casefold()).strip()


def lengths_of(protected: Collection[str]) -> tuple[int, ...]:
    """How many words normalized protected texts have; only runs of such lengths need be looked up."""
    return tuple(sorted({text.count(" ") + 1 for text in protected if text}))


def holds_any(text: str, protected: Collection[str], lengths: Sequence[int]) -> bool:
    """Whether a run of a normalized text's words is a protected text; a longer name with it inside gives it away too."""
    words = text.split()
    return any(" ".join(words[i : i + n]) in protected for n in lengths for i in range(len(words) - n + 1))


def find_pools(project: Project, table: pa.Table | None, protected: set[str]) -> dict[Kind, list[Row]]:
    """The rows that may be written about, for each kind, with what may be shown of them and of their siblings."""
    grounding = project.plan.grounding
    if grounding is None:
        return {"instruction": [], "preference": []}
    if table is None:
        raise ProjectError(
            f"project.yaml: plan.grounding.table: {grounding.table}", "was not found", "put the table there, or remove plan.grounding"
        )
    _check_columns(grounding, table)
    lengths = lengths_of(protected)
    inside = table.filter(pc.equal(table[grounding.where], True)) if grounding.where else table
    pool = [row for row in map(lambda r: _shown(r, grounding, protected, lengths), inside.to_pylist()) if row]
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
    lengths = lengths_of(protected)
    families: dict[Any, list[Row]] = defaultdict(list)
    for row in table.filter(mask).to_pylist():
        if shown := _shown(row, grounding, protected, lengths):
            families[shown["family"]].append(shown)
    return families


def _shown(row: Row, grounding: Grounding, protected: set[str], lengths: Sequence[int]) -> Row | None:
    """What may be shown of a row, or None when what it is called is itself protected."""
    shown: Row = {}
    for column in grounding.show or tuple(row):
        value = row[column]
        if isinstance(value, str) and normalized(value) in protected:
            return None
        shown[column] = [v for v in value if not holds_any(normalized(str(v)), protected, lengths)] if isinstance(value, list) else value
    topic = row[grounding.topic] if grounding.topic else None
    family = row[grounding.siblings] if grounding.siblings else None
    return {"key": str(row[grounding.key]), "shown": shown, "topic": topic, "family": family}


def walk_rows(pool: Sequence[Row], *, seed: int, backwards: bool) -> Iterator[tuple[Row, int] | None]:
    """Every row once, topics in turns, then all again in another order, without end; None for ever without any."""
    if not pool:
        while True:
            yield None
    visit = 0
    while True:
        random_ = random.Random(f"{seed}:rows:{visit}")
        topics: dict[Any, deque[Row]] = defaultdict(deque)
        for row in random_.sample(pool, len(pool)):
            topics[row["topic"]].append(row)
        queues = [topics[topic] for topic in random_.sample(sorted(topics, key=str), len(topics))]
        while any(queues):
            for queue in filter(None, queues):
                yield queue.pop() if backwards else queue.popleft(), visit
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
