"""The values of an attribute that stand in a file: one a line, or the column of a table."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from curation.errors import ProjectError
from curation.project import Project, ValuesFile


@dataclass(frozen=True)
class Values:
    """What an attribute may be."""

    weights: dict[str, float]
    described: dict[str, str]
    """Value to a sentence, for those that have one."""


def written_values(project: Project) -> dict[str, Values]:
    """The attributes as project.yaml has them; those that stand in a file are empty."""
    plan = project.plan
    return {name: Values(dict(values), dict(plan.described.get(name, {}))) for name, values in plan.attributes.items()}


def values_from_lines(text: str, name: str, source: ValuesFile) -> Values:
    """One value a line, each of weight 1; empty lines and lines that begin with # are left out."""
    for key in ("column", "weight", "says"):
        if getattr(source, key) is not None:
            raise ProjectError(
                _what(name), f"names a {key}, and {source.file} is a list of lines", "use a CSV or Parquet file, or leave it out"
            )
    lines = [line.strip() for line in text.splitlines()]
    weights = dict.fromkeys((line for line in lines if line and not line.startswith("#")), 1.0)
    if not weights:
        raise ProjectError(_what(name), f"reads {source.file}, which holds no value", "write one value a line")
    return Values(weights, {})


def values_from_table(table: pa.Table, name: str, source: ValuesFile) -> Values:
    """The distinct values of a column; weights of equal values add up, the first description stands."""
    wanted = {"column": source.column or table.column_names[0], "weight": source.weight, "says": source.says}
    for key, column in wanted.items():
        if column is not None and column not in table.column_names:
            fact = f"names the column `{column}` as its {key}; {source.file} has {', '.join(table.column_names)}"
            raise ProjectError(_what(name), fact, "mend the name in project.yaml")
    columns = {key: table[column].to_pylist() for key, column in wanted.items() if column is not None}
    weights: dict[str, float] = {}
    described: dict[str, str] = {}
    for n, value in enumerate(columns["column"]):
        text = "" if value is None else str(value).strip()
        if not text:
            continue
        added = weights.get(text, 0.0) + _weight(columns["weight"][n], name, source, n) if "weight" in columns else 1.0
        weights[text] = added
        said = columns["says"][n] if "says" in columns else None
        if said:
            described.setdefault(text, str(said))
    if not weights:
        raise ProjectError(_what(name), f"reads `{wanted['column']}` of {source.file}, which holds no value", "look at the file")
    return Values(weights, described)


def _weight(value: Any, name: str, source: ValuesFile, row: int) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        fact = f"reads the weight {value!r} in row {row + 1} of {source.file}"
        raise ProjectError(_what(name), fact, "write a number there") from None


def _what(name: str) -> str:
    return f"project.yaml: plan.attributes.{name}"
