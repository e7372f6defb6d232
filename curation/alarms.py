"""Alarms about a gate: classes that it leaves without rows, and a share of dropped rows that is too large to be believed.

A gate that works takes out a few rows of every class. One that empties a class has usually met a setting or a column that does
not fit the data: a label that equals a protected question once dropped all 148 rows of its class.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

LEAST = 2
"""Rows from which a class counts as emptied: one that loses its only row is ordinary in data with many rare classes."""
_NAMED = 5


@dataclass(frozen=True)
class GateAlarm:
    """A gate that emptied classes, or dropped more rows than its stated share."""

    gate: str
    rows: int
    dropped: int
    share: float | None = None
    """The share of rows from which this gate raises an alarm; None for an alarm about classes."""
    emptied: tuple[tuple[str, int], ...] = ()
    """Classes without a row left and how many rows each had, largest first."""
    classes: int = 0
    """Classes of at least LEAST rows."""

    def __str__(self) -> str:
        if self.share is not None:
            part = self.dropped / self.rows
            return (
                f"{self.gate}: {self.dropped:,} of {self.rows:,} rows ({part:.0%}) are dropped, above the alarm at {self.share:.0%}."
                " Check its settings before you use the result."
            )
        names = ", ".join(f"{name} ({n:,} rows)" for name, n in self.emptied[:_NAMED])
        more = f" and {len(self.emptied) - _NAMED:,} more" if len(self.emptied) > _NAMED else ""
        verb = "has" if len(self.emptied) == 1 else "have"
        of = f"{len(self.emptied):,} of {self.classes:,} classes"
        return f"{self.gate}: {of} {verb} no row left: {names}{more}. Look at why they are dropped."


def gate_alarms(gate: str, labels: Sequence[str | None], dropped: Sequence[bool], *, share: float | None = None) -> list[GateAlarm]:
    """Find what about a gate's result needs a look before it is believed.

    Args:
        gate: the gate's name, as it appears in the sentence.
        labels: the class of each row; None where a row has none.
        dropped: whether the gate drops each row.
        share: part of the rows (0 to 1) above which an alarm is raised; None for no such alarm.

    Returns:
        The share's alarm first, then one for all emptied classes.
    """
    rows, gone = len(labels), sum(dropped)
    alarms = [GateAlarm(gate, rows, gone, share)] if share is not None and gone > share * rows and gone >= LEAST else []
    before = Counter(label for label in labels if label is not None)
    after = Counter(label for label, drops in zip(labels, dropped, strict=True) if label is not None and not drops)
    large = {label: n for label, n in before.items() if n >= LEAST}
    emptied = sorted(((label, n) for label, n in large.items() if not after[label]), key=lambda found: (-found[1], found[0]))
    return [*alarms, GateAlarm(gate, rows, gone, None, tuple(emptied), len(large))] if emptied else alarms
