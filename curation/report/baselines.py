"""Compare the keep rule with two simple rules that keep as many rows: random rows and the longest rows.

The comparison exposes a filter that is no better than chance, or that only prefers length.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from curation.report.schema import Selection

if TYPE_CHECKING:
    import numpy as np

DRAWS = 200
"""Random selections that are averaged, so that no single draw decides."""


def compare_selections(
    totals: Sequence[float],
    lengths: Sequence[int],
    *,
    kept: Sequence[bool],
    valid: Sequence[bool] | None = None,
    approved: Sequence[bool | None] | None = None,
    seed: int = 0,
) -> tuple[Selection, ...]:
    """Describe the kept rows, random rows and the longest rows, all of one number.

    Args:
        totals: score of each scored row.
        lengths: characters of each row's completion.
        kept: rows that the keep rule keeps.
        valid: rows that pass the validators; None if no validator ran.
        approved: settled verdict of people on each row, None if open. Only reviewed rows count, and people mostly review kept rows,
            so the approved share of a random selection is that of its reviewed rows.
        seed: seed of the random selections.
    """
    import numpy as np

    chosen = np.flatnonzero(np.asarray(kept, bool))
    if not len(chosen):
        return ()
    columns: dict[str, Any] = {
        "mean_score": np.asarray(totals, float),
        "mean_length": np.asarray(lengths, float),
        "kept_share": np.asarray(kept, float),
        "valid_share": None if valid is None else np.asarray(valid, float),
        "approved_share": None if approved is None else np.asarray([np.nan if a is None else float(a) for a in approved]),
    }
    longest = np.lexsort((np.arange(len(lengths)), -columns["mean_length"]))[: len(chosen)]
    rng = np.random.default_rng(seed)
    draws = [_describe(rng.choice(len(totals), len(chosen), replace=False), columns) for _ in range(DRAWS)]
    chance = {name: _mean([draw[name] for draw in draws]) for name in draws[0]}
    described = (("Filter", _describe(chosen, columns)), ("Random", chance), ("Longest", _describe(longest, columns)))
    return tuple(Selection.model_validate({"name": name, "rows": len(chosen), **found}) for name, found in described)


def _describe(rows: np.ndarray[Any, Any], columns: dict[str, Any]) -> dict[str, float | None]:
    seen = None if columns["approved_share"] is None else columns["approved_share"][rows]
    means = {name: None if column is None else _mean(column[rows]) for name, column in columns.items()}
    return {**means, "reviewed": 0.0 if seen is None else float((seen == seen).sum())}


def _mean(values: Any) -> float | None:
    """Return the mean of the known values; None if there are none."""
    import numpy as np

    known = values if isinstance(values, np.ndarray) else np.array([v for v in values if v is not None], float)
    known = known[~np.isnan(known)]
    return float(known.mean()) if len(known) else None
