"""The plan: which example is written about what. A cell names attributes (task, difficulty, persona …) and, in a grounded
project, the table row or the passage it is written about and the rows it could be confused with.

The plan depends on the seed, the table and the documents alone, and raising a count only appends cells: answers already bought
stay good. Files: cells.py, layout.py, spread.py (attributes, quotas), values.py (attributes from files), rows.py, passages.py.
"""

from __future__ import annotations

from curation.plan.cells import Cell, Row, cell_id
from curation.plan.extra import Asked, extra_cells
from curation.plan.layout import coverage, make_plan
from curation.plan.passages import find_passages
from curation.plan.rows import holds_any, lengths_of, normalized
from curation.plan.values import Values, values_from_lines, values_from_table, written_values

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
