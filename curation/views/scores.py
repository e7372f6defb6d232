"""Results of the judges: totals of rows, the keep rule, and the kept rows compared with random and longest rows.

The rule keeps totals from a threshold on, or the best N percent (`curation.decide.keep_rule`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from curation.findings import is_check
from curation.records import KINDS, Kind
from curation.report.baselines import compare_selections
from curation.report.schema import Selection
from curation.store.records import Row
from curation.views.state import ProjectState, groups_of, rules_by_group
from curation.workspace import checked_answer


@dataclass(frozen=True)
class Kept:
    """The keep rule applied to the scored rows of one kind."""

    kind: Kind
    rows: tuple[Row, ...]
    """The rows that have a total."""
    totals: tuple[float, ...]
    kept: tuple[bool, ...]
    groups: tuple[str, ...]
    """Each row's value of `score.top_by`; empty where there is none."""

    @property
    def cut(self) -> float | None:
        """The lowest total that is kept."""
        return min((total for total, keep in zip(self.totals, self.kept, strict=True) if keep), default=None)


@dataclass(frozen=True)
class KeepSummary:
    """Counts and sentences about the keep rule, for the summary of a stage."""

    counts: Mapping[Kind, tuple[int, int]]
    """(scored, kept) rows of each kind that has scored rows."""
    notes: Sequence[str]
    """For each kind the kept rows compared with as many random and as many of the longest rows."""

    @property
    def sentences(self) -> list[str]:
        """Sentence with the kept share, with each kind's numbers where there are two kinds; empty where no row is scored."""
        words = {"instruction": "instruction rows", "preference": "pairs"}
        scored, kept = (sum(column) for column in zip(*self.counts.values(), strict=True)) if self.counts else (0, 0)
        if not scored:
            return []
        parts = [f"{kept:,} of {scored:,} {words[kind]}" for kind, (scored, kept) in self.counts.items()]
        return [f"Kept {kept:,} of {scored:,} rows ({kept / scored:.1%})" + (f": {', '.join(parts)}." if len(parts) > 1 else ".")]


def kept_rows(state: ProjectState, kind: Kind) -> Kept:
    """Apply the keep rule to each scored row of a kind."""
    totals, groups = state.totals_of(kind), groups_of(state, kind)
    keeps = rules_by_group(state, groups, totals)
    rows = tuple(row for row in state.rows[kind] if row.seq in totals)
    kept = tuple(keeps[groups[row.seq]](totals[row.seq]) for row in rows)
    return Kept(kind, rows, tuple(totals[row.seq] for row in rows), kept, tuple(groups[row.seq] for row in rows))


def selections_of(state: ProjectState, found: Kept, verdicts: Mapping[int, str]) -> tuple[Selection, ...]:
    """Compare the kept rows with as many random rows and as many of the longest rows, by what the judge did not see.

    Args:
        state: of the project.
        found: the keep rule's result.
        verdicts: verdict of each row by seq.
    """
    valid = None
    if state.project.screen.checks and state.is_screened:
        invalid = {f.seq for f in state.findings("screen") if is_check(f.kind)}
        valid = [row.seq not in invalid for row in found.rows]
    return compare_selections(
        found.totals,
        [len(checked_answer(row)) for row in found.rows],
        kept=found.kept,
        valid=valid,
        approved=[settled_by_people(verdicts.get(row.seq)) for row in found.rows],
    )


def settled_by_people(verdict: str | None) -> bool | None:
    """Return whether annotators approved a row as it was; None while open. A row that had to be edited was not approved."""
    return {"approved": True, "rejected": False, "edited": False}.get(verdict or "")


def summarize_kept(state: ProjectState, verdicts: Mapping[int, str]) -> KeepSummary:
    """Count the kept rows of each kind and compare them with random and longest rows.

    Args:
        state: of the project.
        verdicts: verdict of each row by seq.
    """
    counts: dict[Kind, tuple[int, int]] = {}
    notes = []
    for kind in KINDS:
        found = kept_rows(state, kind)
        if not found.rows:
            continue
        counts[kind] = (len(found.rows), sum(found.kept))
        if chosen := selections_of(state, found, verdicts):
            notes.append(_comparison(state, kind, found, chosen))
    return KeepSummary(counts, notes)


def rule_in_words(state: ProjectState) -> str:
    """Return the keep rule in words."""
    settings = state.project.score
    if settings.top_percent is None:
        return f"total of {settings.threshold:g} or more"
    return f"best {settings.top_percent:g} %" + (f" of each {settings.top_by}" if settings.top_by else "")


def _comparison(state: ProjectState, kind: Kind, found: Kept, chosen: Sequence[Selection]) -> str:
    """Return the selections in one sentence: the kept rows' figures, with those of random and longest rows in brackets."""
    ours, *others = chosen
    noun = "rows" if kind == "instruction" else "pairs"
    parts = [f"mean score {ours.mean_score or 0:.1f} ({', '.join(f'{o.name.lower()} {o.mean_score or 0:.1f}' for o in others)})"]
    if ours.valid_share is not None:
        parts.append(f"{ours.valid_share:.1%} pass the checks ({', '.join(f'{o.name.lower()} {o.valid_share or 0:.1%}' for o in others)})")
    if ours.approved_share is not None:
        parts.append(f"{ours.approved_share:.1%} of {ours.reviewed:,.0f} reviewed {noun} approved")
    return f"Kept {ours.rows:,} {noun} ({rule_in_words(state)}): {'; '.join(parts)}."
