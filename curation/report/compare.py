"""The keep rule beside two cheap rules that keep as many rows: a random one and the longest rows.

A filter that does no better than chance, or that merely likes length, shows here.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from statistics import fmean

from curation.report.rows import Selection

DRAWS = 200
"""Random selections averaged, so that one lucky draw decides nothing."""


def compare_selections(
    totals: Sequence[float],
    lengths: Sequence[int],
    *,
    kept: Sequence[bool],
    valid: Sequence[bool] | None = None,
    seed: int = 0,
) -> tuple[Selection, ...]:
    """Describe the kept rows, random rows and the longest rows, all of one number.

    Args:
        totals: score of each scored row.
        lengths: characters of each row's completion.
        kept: which rows the keep rule takes.
        valid: which rows pass the validators; None when no validator ran.
    """
    chosen = [i for i, keep in enumerate(kept) if keep]
    everything = range(len(totals))
    if not chosen:
        return ()
    longest = sorted(everything, key=lambda i: (-lengths[i], i))[: len(chosen)]
    draw = random.Random(seed)
    draws = [_describe("Random", draw.sample(everything, len(chosen)), totals, lengths, valid) for _ in range(DRAWS)]
    return (
        _describe("Filter", chosen, totals, lengths, valid),
        Selection(
            name="Random",
            rows=len(chosen),
            mean_score=fmean(d.mean_score or 0.0 for d in draws),
            valid_share=None if valid is None else fmean(d.valid_share or 0.0 for d in draws),
            mean_length=fmean(d.mean_length or 0.0 for d in draws),
        ),
        _describe("Longest", longest, totals, lengths, valid),
    )


def _describe(name: str, rows: Sequence[int], totals: Sequence[float], lengths: Sequence[int], valid: Sequence[bool] | None) -> Selection:
    return Selection(
        name=name,
        rows=len(rows),
        mean_score=fmean(totals[i] for i in rows),
        valid_share=None if valid is None else fmean(float(valid[i]) for i in rows),
        mean_length=fmean(lengths[i] for i in rows),
    )
