"""Redaction of the report: personal data always, and protected items in the copy that a snapshot contains.

A snapshot's report must not carry the protected items, nor the rows that repeat them: whoever trains on the snapshot would
have the evaluation set in the same folder.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TypeVar

from pydantic import BaseModel

from curation.distribution.pii import PiiSearch, replace_spans, spans_of
from curation.distribution.schema import Comparison
from curation.report.schema import JudgeQuality, ReportData

Shown = TypeVar("Shown", bound=BaseModel)


def pii_search(data: ReportData) -> PiiSearch:
    """Return the PII that the page masks."""
    return PiiSearch(frozenset(data.pii_kinds), data.phone_regions)


def mask_rows(data: ReportData) -> ReportData:
    """Mask personal data in the texts of leaks, conflicts, disputes and failures; dropped rows are masked when they are selected."""
    review, search = data.review, pii_search(data)
    return data.model_copy(
        update={
            "leaks": tuple(mask_fields(leak, search, "text", "item_text", "evidence") for leak in data.leaks),
            "conflicts": data.conflicts and tuple(mask_fields(c, search, "text", "twin_text") for c in data.conflicts),
            "review": review
            and review.model_copy(update={"disputes": tuple(mask_fields(d, search, "text", "comment") for d in review.disputes)}),
            "failures": data.failures and tuple(mask_fields(f, search, "example") for f in data.failures),
            "pairs": data.pairs
            and data.pairs.model_copy(
                update={
                    "near_identical": tuple((row, mask_text(a, search), mask_text(b, search)) for row, a, b in data.pairs.near_identical)
                }
            ),
            "judge": data.judge
            and data.judge.model_copy(
                update={
                    "apart": tuple(mask_fields(line, search, "text", "twin_text") for line in data.judge.apart),
                    "odd": tuple(mask_fields(line, search, "text", "rationale") for line in data.judge.odd),
                }
            ),
        }
    )


def mask_fields(value: Shown, search: PiiSearch, *fields: str) -> Shown:
    """Return the value with personal data masked in these fields."""
    return value.model_copy(update={name: mask_text(text, search) for name in fields if (text := getattr(value, name))})


@lru_cache(maxsize=64)  # thousands of rows may say that their text is withheld
def mask_text(text: str, search: PiiSearch) -> str:
    """Return the text with personal data masked."""
    return replace_spans(text, spans_of(text, search))


REAL = "Not shown here: written by real users. See the report in the project."

WITHHELD = "Not shown here: it would put a protected item into the snapshot. See the report in the project."


def withhold_protected(data: ReportData) -> ReportData:
    """Remove the text of protected items and of leaking rows, and all that quotes them."""
    leaking = {leak.row for leak in data.leaks}
    hidden = {"text": WITHHELD, "evidence": ""}
    return data.model_copy(
        update={
            "leaks": tuple(leak.model_copy(update={**hidden, "item_text": WITHHELD}) for leak in data.leaks),
            "pairs": data.pairs
            and data.pairs.model_copy(
                update={
                    "near_identical": tuple(
                        (row, WITHHELD, WITHHELD) if row in leaking else (row, a, b) for row, a, b in data.pairs.near_identical
                    )
                }
            ),
            "judge": data.judge and _withhold_judged(data.judge, leaking),
            "drops": data.drops
            and tuple(
                drop.model_copy(update={**hidden, "twin_text": None}) if {drop.row, drop.twin} & leaking else drop for drop in data.drops
            ),
            "conflicts": data.conflicts
            and tuple(
                c.model_copy(update={"text": WITHHELD, "twin_text": WITHHELD}) if {c.row, c.twin} & leaking else c for c in data.conflicts
            ),
            # Failures keep only their reason, because nothing has screened their text.
            "failures": data.failures and tuple(f.model_copy(update={"example": ""}) for f in data.failures),
            "comparison": data.comparison and _withhold_real(data.comparison),
            "review": data.review
            and data.review.model_copy(
                update={
                    "disputes": tuple(
                        d.model_copy(update={"text": WITHHELD, "comment": ""}) if d.row in leaking else d for d in data.review.disputes
                    )
                }
            ),
        }
    )


def _withhold_real(comparison: Comparison) -> Comparison:
    """Remove texts of real users, which stay in the project."""
    kept = {"text": REAL, "nearest": ""}
    return comparison.model_copy(
        update={
            "uncovered": tuple(line.model_copy(update=kept) for line in comparison.uncovered[:1]),
            "gaps": tuple(gap.model_copy(update={"central": ""}) for gap in comparison.gaps),
        }
    )


def _withhold_judged(judge: JudgeQuality, leaking: set[str]) -> JudgeQuality:
    return judge.model_copy(
        update={
            "apart": tuple(
                a.model_copy(update={"text": WITHHELD, "twin_text": WITHHELD}) if {a.row, a.twin} & leaking else a for a in judge.apart
            ),
            "odd": tuple(o.model_copy(update={"text": WITHHELD, "rationale": ""}) if o.row in leaking else o for o in judge.odd),
        }
    )
