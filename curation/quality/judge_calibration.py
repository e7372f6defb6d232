"""The calibration of a project's judge for one kind of row, and its sentences. What is not known is said without a number."""

from __future__ import annotations

from dataclasses import dataclass

from curation.intervals import Estimate
from curation.quality.calibration import Calibration, Cut, Drift, SliceGap, TurnedDown
from curation.records import Kind

FEWEST = 20
"""Settled rows from which a curve is drawn, and from which each side of a drift is compared."""
NAMED = 5
"""Labels that the sentences name."""


@dataclass(frozen=True, slots=True)
class CalibrationDrift:
    """A comparison of what scores meant before a change and after it."""

    name: str
    """The change."""
    drift: Drift
    is_clear: bool
    """True if it is more than chance."""


@dataclass(frozen=True, slots=True)
class JudgeCalibration:
    """Approval by people as a function of the total, for one kind of row."""

    kind: Kind
    precision: float
    """Share of approved rows that the proposed cut reaches."""
    cut: float | None
    """Total from which rows pass now; None where it differs by group."""
    above: int
    """Rows that pass the gates."""
    below: int
    """Rows that only the score drops."""
    read_above: int
    """Settled rows above the cut."""
    read_below: int
    drawn: int
    """Rows below the cut that people see (`review.calibrate`)."""
    curve: Calibration | None = None
    """None with too few settled rows."""
    proposed: Cut | None = None
    """None if no cut reaches the precision."""
    turned_down: TurnedDown | None = None
    """None if people saw no row below the cut."""
    slices: tuple[SliceGap, ...] = ()
    """By label."""
    drifts: tuple[CalibrationDrift, ...] = ()

    @property
    def sentences(self) -> list[str]:
        """The result in words, the most important first."""
        read = self.read_above + self.read_below
        if self.curve is None:
            return [f"people have settled {read:,} of the scored {self.kind} rows; a calibration needs {FEWEST}"]
        out = []
        if self.proposed is None:
            out.append(f"no cut is shown to reach {self.precision:.0%} approved rows (95 % confidence, {read:,} rows)")
        else:
            cut, present = self.proposed, "" if self.cut is None else f"; the cut is {self.cut:.2f} now"
            lost = "" if cut.lost is None else f" and loses {_share(cut.lost)} of the good ones"
            shown = f"at least {cut.precision.low:.1%} of the rows are approved ({cut.precision.value:.1%} of {cut.precision.n:,} read)"
            out.append(f"from a total of {cut.score:.2f} on {shown}; that cut keeps {cut.kept:.0%} of the rows{lost}{present}")
        out.append(self._below_in_words())
        if self.curve.auc is None:
            out.append(
                f"people approved {_share(self.curve.approved)} of the {read:,} rows read, so it is not known how well the scores separate"
            )
        else:
            area = self.curve.auc
            out.append(f"the scores separate approved rows from others with AUC {area.value:.2f} ({area.low:.2f} to {area.high:.2f})")
        odd = [one for one in self.slices if one.is_clear(len(self.slices))]
        for one in sorted(odd, key=lambda one: one.gap.value)[:NAMED]:
            approved = f"{one.approved.share:.0%} ({one.approved.low:.0%} to {one.approved.high:.0%}) of {one.rows:,} rows"
            out.append(f"label “{one.name}”: people approve {approved}, and the scores predict {one.expected:.0%}")
        for moved in self.drifts:
            if moved.is_clear:
                out.append(f"at equal scores people's approval has changed ({moved.name}): {_moved(moved.drift)}. Choose the cut again")
        return out

    def _below_in_words(self) -> str:
        if not self.below:
            return "no row is dropped by its score alone, so the cut turns nothing down"
        if self.turned_down is not None:
            return (
                f"of the {self.below:,} rows that only the score drops {_share(self.turned_down.good)} are good ({self.read_below:,} read);"
                f" the cut loses {_share(self.turned_down.lost)} of all good rows"
            )
        if not self.drawn:
            return (
                f"people saw none of the {self.below:,} rows that only the score drops, so it is not known what the cut wrongly turns down"
                " (set review.calibrate)"
            )
        shown = f"{self.read_below:,} of the {self.drawn:,} rows shown below the cut"
        return f"people have settled {shown}, so it is not known what the cut wrongly turns down"


def _share(share: Estimate) -> str:
    return f"{share.value:.0%} ({share.low:.0%} to {share.high:.0%})"


def _moved(moved: Drift) -> str:
    parts = []
    if (ratio := moved.odds_ratio) is not None:
        parts.append(f"odds ratio {ratio.value:.2f} ({ratio.low:.2f} to {ratio.high:.2f})")
    if (area := moved.auc_change) is not None:
        parts.append(f"AUC {area.value:+.2f} ({area.low:+.2f} to {area.high:+.2f})")
    return ", ".join(parts)
