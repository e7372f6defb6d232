"""What the judges have said, read from the facts: each judge by itself and all of them together. Core: score/."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from curation import decide as rules
from curation import judge as scoring
from curation.config.project import ModelSpec
from curation.records import KINDS, Kind, PairRecord, candidates_of, record_id
from curation.report import Selection, compare_selections
from curation.store import facts, records, runs
from curation.store.records import Row
from curation.workspace import Workspace, checked_answer, load_cells

Choices = Mapping[str, int | None]
"""Order shown to winner (canonical index, None for a tie)."""


@dataclass(frozen=True)
class Judged:
    """All that one judge has said under the present rubric."""

    name: str
    """The model, told apart by its place where two ways to serve it have one name."""
    spec: ModelSpec
    values: Mapping[int, Mapping[str, int]]
    """Criterion (and `overall`) to 1..5, by seq."""
    totals: Mapping[int, float]
    choices: Mapping[int, Choices]


def judged_by(workspace: Workspace) -> tuple[Judged, ...]:
    """Every judge's words, the first judge first."""
    judges = scoring.judges_of(workspace.project)
    models = [spec.model for spec in judges]
    names = [model if models.index(model) == place else f"{model} ({place + 1})" for place, model in enumerate(models)]
    return tuple(_judged(workspace, name, spec) for name, spec in zip(names, judges, strict=True))


def totals_by_seq(workspace: Workspace) -> dict[int, float]:
    """Total (0 to 10) of every record scored under the present rubric, over all judges that have scored it."""
    how = workspace.project.score.combine
    return {seq: scoring.combine(totals, how) for seq, totals in totals_together(judged_by(workspace)).items()}


def totals_together(judged: tuple[Judged, ...]) -> dict[int, list[float]]:
    """Every judge's total of each record; judges that have not scored it are left out."""
    out: dict[int, list[float]] = {}
    for judge in judged:
        for seq, total in judge.totals.items():
            out.setdefault(seq, []).append(total)
    return out


def choices_by_seq(workspace: Workspace) -> dict[int, tuple[Choices, ...]]:
    """For each pair what every judge chose, the first judge first; judges that have not seen it are left out."""
    out: dict[int, list[Choices]] = {}
    for judge in judged_by(workspace):
        for seq, by_order in judge.choices.items():
            out.setdefault(seq, []).append(by_order)
    return {seq: tuple(given) for seq, given in out.items()}


def _judged(workspace: Workspace, name: str, spec: ModelSpec) -> Judged:
    criteria = set(workspace.project.score.rubric)
    values = facts.scores_by_seq(workspace.db, scoring.rubric_digest(workspace.project, spec))
    totals = {
        seq: scoring.total_of({c: v for c, v in given.items() if c in criteria})
        for seq, given in values.items()
        if criteria <= given.keys()
    }
    return Judged(name, spec, values, totals, facts.choices_by_seq(workspace.db, scoring.pair_digest(workspace.project, spec)))


Rule = Callable[[float], bool]


@dataclass(frozen=True)
class Kept:
    """What the keep rule does with the scored rows of one kind."""

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


def keep_rules(workspace: Workspace, rows: Sequence[Row], totals: Mapping[int, float]) -> dict[int, Rule]:
    """The rule for each row (by seq), given each row's total; the best part is taken within the row's group."""
    groups, settings = groups_of(workspace, rows), workspace.project.score
    by_group: dict[str, list[float]] = {}
    for row in rows:
        by_group.setdefault(groups[row.seq], []).extend([totals[row.seq]] if row.seq in totals else [])
    made = {
        name: rules.keep_rule(ranked, threshold=settings.threshold, top_percent=settings.top_percent) for name, ranked in by_group.items()
    }
    return {row.seq: made[groups[row.seq]] for row in rows}


def groups_of(workspace: Workspace, rows: Sequence[Row]) -> dict[int, str]:
    """Each row's value of `score.top_by`; rows that no cell planned are a group of their own."""
    name = workspace.project.score.top_by
    if name is None:
        return {row.seq: "" for row in rows}
    grounding = workspace.project.plan.grounding
    column = grounding.topic if grounding and name == "topic" and name not in workspace.project.plan.attributes else None
    values = {c.id: str((c.row or {}).get(column, "")) if column else c.attributes.get(name, "") for c in load_cells(workspace)}
    return {row.seq: values.get(row.cell or "", "") for row in rows}


def total_of_rows(workspace: Workspace, kind: Kind, rows: Sequence[Row]) -> dict[int, float]:
    """Each row's total by seq; a pair's is that of the answer meant to be better."""
    totals = totals_by_seq(workspace)
    if kind == "instruction":
        return {row.seq: totals[row.seq] for row in rows if row.seq in totals}
    candidates = {row.id: row.seq for row in records.list_rows(workspace.db, "instruction", role="candidate")}
    found = {row.seq: totals.get(better_candidate(row, candidates)) for row in rows}
    return {seq: total for seq, total in found.items() if total is not None}


def better_candidate(row: Row, candidates: Mapping[str, int]) -> int:
    """Seq of the candidate of a pair that was meant to be better (0, which is no seq, where none was)."""
    if row.better is None or not isinstance(pair := row.record, PairRecord):
        return 0
    return candidates.get(record_id(candidates_of(pair)[row.better]), 0)


def kept_rows(workspace: Workspace, kind: Kind) -> Kept:
    """What the keep rule does with each scored row of a kind."""
    rows = records.list_rows(workspace.db, kind)
    totals, groups = total_of_rows(workspace, kind, rows), groups_of(workspace, rows)
    keeps = keep_rules(workspace, rows, totals)
    scored = tuple(row for row in rows if row.seq in totals)
    return Kept(
        kind,
        scored,
        tuple(totals[row.seq] for row in scored),
        tuple(keeps[row.seq](totals[row.seq]) for row in scored),
        tuple(groups[row.seq] for row in scored),
    )


def selections_of(workspace: Workspace, found: Kept) -> tuple[Selection, ...]:
    """The kept rows, random rows and the longest rows, all of one number, each with what the judge did not see."""
    invalid = {f.seq for f in facts.latest_findings(workspace.db, ("screen",)) if f.kind.startswith("check_")}
    verdicts, screened = facts.verdicts_by_seq(workspace.db), runs.latest_run(workspace.db, "screen") is not None
    people = [people_say(verdicts.get(row.seq, {}).get("verdict")) for row in found.rows]
    return compare_selections(
        found.totals,
        [len(checked_answer(row)) for row in found.rows],
        kept=found.kept,
        valid=[row.seq not in invalid for row in found.rows] if workspace.project.screen.checks and screened else None,
        approved=people,
    )


def people_say(verdict: str | None) -> bool | None:
    """What people settled of a row as it stands: a text they had to change was not good as it stood. None while open."""
    return {"approved": True, "rejected": False, "edited": False}.get(verdict or "")


def tell_kept(workspace: Workspace) -> tuple[dict[Kind, dict[str, Any]], list[str]]:
    """Counts and sentences for a summary: what the rule keeps of each kind, beside chance and beside length."""
    counts: dict[Kind, dict[str, Any]] = {}
    notes = []
    for kind in KINDS:
        found = kept_rows(workspace, kind)
        chosen = selections_of(workspace, found)
        if not found.rows:
            continue
        counts[kind] = {"scored": len(found.rows), "kept": sum(found.kept), "cut": found.cut}
        if chosen:
            said = "; ".join(describe(selection) for selection in chosen)
            notes.append(f"Keep rule, {kind} ({rule_in_words(workspace)}): {said}.")
    return counts, notes


def kept_in_words(counts: Mapping[Kind, Mapping[str, Any]]) -> list[str]:
    """Return "Kept x of y (p %)" over all scored rows, with each kind's numbers where there are two; nothing where no row is scored."""
    words = {"instruction": "instruction rows", "preference": "pairs"}
    kept, scored = (sum(told[name] for told in counts.values()) for name in ("kept", "scored"))
    if not scored:
        return []
    parts = [f"{told['kept']:,} of {told['scored']:,} {words[kind]}" for kind, told in counts.items()]
    return [f"Kept {kept:,} of {scored:,} ({kept / scored:.1%})".replace("%", " %") + (f": {', '.join(parts)}." if len(parts) > 1 else ".")]


def rule_in_words(workspace: Workspace) -> str:
    """The keep rule as people say it."""
    settings = workspace.project.score
    if settings.top_percent is None:
        return f"total of {settings.threshold:g} or more"
    return f"best {settings.top_percent:g} %" + (f" of each {settings.top_by}" if settings.top_by else "")


def describe(selection: Selection) -> str:
    """One selection in a few words."""
    parts = [f"mean total {selection.mean_score or 0:.2f}"]
    if selection.valid_share is not None:
        parts.append(f"{selection.valid_share:.1%} pass the validators")
    if selection.approved_share is not None:
        parts.append(f"{selection.approved_share:.1%} of {selection.reviewed:,.0f} reviewed approved")
    parts.append(f"{selection.mean_length or 0:,.0f} characters")
    return f"{selection.name.lower()} {selection.rows:,} rows: {', '.join(parts)}"
