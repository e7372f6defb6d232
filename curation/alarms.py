"""Raise alarms about a gate: classes without any remaining row, and an implausibly large share of dropped rows.

A gate that works drops a few rows of every class. One that empties a class usually has a wrong setting or column: a label that equals a
protected question once dropped all 148 rows of its class.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

# Rows a class must have had to count as emptied: losing the only row is ordinary in data with many rare classes.
LEAST = 2
_NAMED = 5


@dataclass(frozen=True)
class GateAlarm:
    """A gate that emptied classes, or dropped more rows than its stated share."""

    gate: str
    rows: int
    dropped: int
    share: float | None = None
    """The share of rows above which this gate raises an alarm; None for an alarm about classes."""
    emptied: tuple[tuple[str, int], ...] = ()
    """Classes without a remaining row and the rows each had, largest first."""
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
    """Find what a person should check in a gate's result.

    Args:
        gate: the gate's name in the message.
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
