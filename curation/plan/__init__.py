"""Plan the examples to write. A cell has attributes (task, difficulty, persona …) and, in a grounded project, a table row or passage.

The plan depends only on the seed, the table and the documents, and raising a count only appends cells, so responses that were paid for
stay valid. grid.py lays out the cells; grounding.py reads table rows, passages and attribute values.
"""

from __future__ import annotations

from curation.plan.grid import Asked, Cell, cell_id, coverage, extra_cells, make_plan
from curation.plan.grounding import (
    Row,
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
