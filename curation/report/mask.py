"""Personal data and secrets in the rows that the page shows are masked; `curate trace` shows a row as it is."""

from __future__ import annotations

from typing import TypeVar

from pydantic import BaseModel

from curation.distribution.personal import mask_personal
from curation.report.data import ReportData

Shown = TypeVar("Shown", bound=BaseModel)


def mask_rows(data: ReportData) -> ReportData:
    """The same facts with the texts of leaks, conflicts, disputes and failures masked; rows left out are masked when they are chosen."""
    review = data.review
    return data.model_copy(
        update={
            "leaks": tuple(mask_fields(leak, "text", "item_text", "evidence") for leak in data.leaks),
            "conflicts": data.conflicts and tuple(mask_fields(c, "text", "twin_text") for c in data.conflicts),
            "review": review and review.model_copy(update={"disputes": tuple(mask_fields(d, "text", "comment") for d in review.disputes)}),
            "failures": data.failures and tuple(mask_fields(f, "example") for f in data.failures),
            "pairs": data.pairs
            and data.pairs.model_copy(
                update={"near_identical": tuple((row, mask_personal(a), mask_personal(b)) for row, a, b in data.pairs.near_identical)}
            ),
            "judge": data.judge
            and data.judge.model_copy(
                update={
                    "apart": tuple(mask_fields(line, "text", "twin_text") for line in data.judge.apart),
                    "odd": tuple(mask_fields(line, "text", "rationale") for line in data.judge.odd),
                }
            ),
        }
    )


def mask_fields(value: Shown, *fields: str) -> Shown:
    """The value with these texts masked."""
    return value.model_copy(update={name: mask_personal(text) for name in fields if (text := getattr(value, name))})
