"""The plan: which example is written about what. A cell names attributes (task, difficulty, persona …) and, in a grounded
project, the table row or the passage it is written about and the rows it could be confused with.

The plan depends on the seed, the table and the documents alone, and raising a count only appends cells: answers already bought
stay good. Files: cells.py, layout.py, spread.py (attributes, quotas), values.py (attributes from files), rows.py, passages.py.
"""

from __future__ import annotations

from curation.plan.cell import Cell, Row, cell_id
from curation.plan.grid import Asked, coverage, extra_cells, make_plan
from curation.plan.grounding import (
    Values,
    find_passages,
    holds_any,
    lengths_of,
    normalized,
    values_from_lines,
    values_from_table,
    written_values,
)

__all__ = [
    "Asked",
    "Cell",
    "Row",
    "Values",
    "cell_id",
    "coverage",
    "extra_cells",
    "find_passages",
    "holds_any",
    "lengths_of",
    "make_plan",
    "normalized",
    "values_from_lines",
    "values_from_table",
    "written_values",
]
