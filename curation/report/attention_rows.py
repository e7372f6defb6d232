"""What to look at first in the rows as a whole: personal data, refusals, real use that is not covered, rare classes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from curation.report.data import ReportData

Level = Literal["stop", "look", "note"]

MISSED = 0.1
"""Real rows that are covered less often than by their own kind by more than this share are a gap."""
REFUSED = 0.01
"""A larger share of answers that refuse teaches refusing."""
OPENED = 0.2
"""One opening on more answers than this is a template."""


def row_notices(data: ReportData) -> Iterator[tuple[Level, str, str]]:
    """Level, text and section of each notice."""
    for d in data.descriptions or ():
        if d.personal:
            kinds = ", ".join(f"{p.kind} {p.found:,}" for p in d.personal[:3]) + (" and others" if len(d.personal) > 3 else "")
            yield "look", f"Personal data or secrets stand in {d.kind} rows: {kinds}.", "distribution"
        if d.rows and d.refusals / d.rows > REFUSED:
            yield "look", f"{d.refusals:,} of {d.rows:,} {d.kind} rows refuse.", "distribution"
        if d.openings and d.openings[0].share > OPENED:
            opening = d.openings[0]
            yield "note", f"{opening.share:.0%} of the answers of {d.kind} rows open with “{opening.name}”.", "distribution"
    if (c := data.comparison) and c.covered + MISSED < c.baseline:
        about = f" The largest part of the others is about: {c.gaps[0].name}." if c.gaps else ""
        yield "look", f"{c.covered:.0%} of real use has a training row near, where {c.baseline:.0%} could.{about}", "comparison"
    for b in data.balance or ():
        if b.after.rare:
            names = ", ".join(name for name, _ in b.after.rare[:4]) + (" and others" if len(b.after.rare) > 4 else "")
            yield "note", f"{len(b.after.rare):,} of {b.after.classes:,} {b.by} classes of {b.kind} rows are rare: {names}.", "balance"
