"""The stage in which the judges score. Core: score/."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

from curation import generate as generation
from curation import judge as scoring
from curation import models
from curation.config.project import ModelSpec
from curation.errors import BudgetReached, UnusableAnswers
from curation.generate import Candidate, Pairing, pair_candidates
from curation.plan import Cell
from curation.records import InstructionRecord, Message, PairRecord, Record
from curation.requests import Answer, Failure, Request
from curation.stages.model_calls import ask, settle_earlier
from curation.store import facts, records, runs
from curation.store.database import CallLedger
from curation.store.records import Origin, Row
from curation.store.runs import Run
from curation.views.judge_diagnostics import tell_judges
from curation.views.runs import count_failed, is_simulated
from curation.views.scores import judged_by, kept_in_words, tell_kept, totals_by_seq
from curation.workspace import Progress, StageResult, Workspace, load_cells, load_seeds, open_workspace, references_of

__all__ = ["judge_requests", "read_judged", "score"]

Prompt = tuple[str, tuple[Message, ...]]
"""A cell and what was asked there."""


def pair_up(workspace: Workspace, run: int) -> int:
    """Make a pair of every prompt whose candidates are all judged (or, where people will say, all there); returns how many.

    A pair is made once; what gives none is counted, with the reason, and its cell may be refilled.
    """
    plan = workspace.project.plan
    if not plan.candidates:
        return 0
    by_people = plan.preferred_by == "people"
    threshold = 0.0 if by_people or workspace.project.score.top_percent is not None else workspace.project.score.threshold
    rule = f"{plan.margin}:{threshold}:{plan.preferred_by}"  # another rule may pair what this one does not
    ready = _ready(workspace, rule, by_people=by_people)
    totals = totals_by_seq(workspace)
    candidates = [[Candidate(row.record, totals.get(row.seq)) for row in rows if _is_answer(row)] for rows in ready.values()]  # type: ignore[arg-type]
    pairings = pair_candidates(candidates, margin=plan.margin, keeps=threshold, by_people=by_people)
    made = [entry for prompt, pairing in zip(ready, pairings, strict=True) for entry in _entries(prompt, pairing)]
    for start in range(0, len(made), 3000):
        records.add_records(workspace.db, made[start : start + 3000], run)
    facts.add_failures(
        workspace.db,
        [
            Failure(stage="pair", slot=cell, reason="no_pair", detail=pairing.reason, key=_tried((cell, prompt), rule))
            for (cell, prompt), pairing in zip(ready, pairings, strict=True)
            if pairing.pair is None
        ],
        run,
    )
    return sum(pairing.pair is not None for pairing in pairings)


def _ready(workspace: Workspace, rule: str, *, by_people: bool) -> dict[Prompt, list[Row]]:
    """Candidates by prompt, of the prompts that have no pair yet and wait for nothing."""
    groups: dict[Prompt, list[Row]] = defaultdict(list)
    for row in records.list_rows(workspace.db, "instruction", role="candidate"):
        if row.cell is not None and row.how == "generated" and row.cell.startswith("preference:"):
            groups[row.cell, row.record.prompt].append(row)
    paired = {(row.cell, row.record.prompt) for row in records.list_rows(workspace.db, "preference")}
    tried = facts.failed_calls(workspace.db, "pair")
    totals, unjudged = totals_by_seq(workspace), {slot.split(":")[0] for slot in facts.failed_slots(workspace.db, "score")}
    return {
        prompt: rows
        for prompt, rows in groups.items()
        if prompt not in paired
        and _tried(prompt, rule) not in tried
        and len(rows) > 1
        and (by_people or all(row.seq in totals or row.id in unjudged for row in rows))
    }


def _entries(prompt: Prompt, pairing: Pairing) -> Sequence[tuple[Record, Origin]]:
    if pairing.pair is None:
        return ()
    source, (cell, _) = _source(prompt), prompt
    rivals = [(record, Origin("paired", source, 0, part, cell)) for part, record in enumerate(pairing.candidates, 1)]
    raw = {"points_apart": round(pairing.gap, 2)} if pairing.better is not None else {"preferred_by": "people"}
    return ((pairing.pair, Origin("paired", source, 0, 0, cell, pairing.better, raw=raw)), *rivals)


def _source(prompt: Prompt) -> str:
    """The same for the same prompt of the same cell."""
    cell, messages = prompt
    return hashlib.sha256("\x1f".join([cell, *(f"{m.role}:{m.content}" for m in messages)]).encode()).hexdigest()


def _tried(prompt: Prompt, rule: str) -> str:
    return hashlib.sha256(f"{_source(prompt)}:{rule}".encode()).hexdigest()


def _is_answer(row: Row) -> bool:
    return row.kind == "instruction"


DIGESTS = (scoring.rubric_digest, scoring.pair_digest, scoring.repeat_digest)

SAMPLED = 100
"""Requests looked at to estimate what all of them cost."""


def score(folder: Path, *, progress: Progress | None = None) -> StageResult:
    """Have the judges score what has no score under the present rubric, and compare pairs in both orders. Core: score/."""
    with open_workspace(folder) as workspace:
        if workspace.project.score.is_off:
            return StageResult("score", notes=["project.yaml has score: null, so no judge is asked."])
        with runs.record_run(workspace.db, "score", scoring.rubric_digest(workspace.project)) as run:
            left = settle_earlier(workspace)
            read_judged(workspace, run.number)
            panel, stopped, unusable = decide_panel(workspace), "", None
            judges = scoring.judges_of(workspace.project) if panel.used else (workspace.project.models.judge,)
            try:
                _ask_judges(workspace, judges, progress, run)
                run.rows_out += read_judged(workspace, run.number)
                if pair_up(workspace, run.number):  # pairs out of candidates that are judged now are then compared themselves
                    _ask_judges(workspace, judges, progress, run)
            except BudgetReached as error:
                stopped = str(error)
            except UnusableAnswers as error:
                unusable = error
            finally:
                run.rows_out += read_judged(workspace, run.number)
            counts, notes = _tell(workspace, asked=run.rows_in)
            run.detail = {**counts, "panel": panel.why}
        if unusable is not None:  # what came before is kept, and the run is in the record
            raise unusable
        said = [*left, stopped, panel.why, *notes]
        return StageResult("score", run.rows_in, run.rows_out, counts, [note for note in said if note])


def _ask_judges(workspace: Workspace, judges: Sequence[ModelSpec], progress: Progress | None, run: Run) -> None:
    """Ask one judge after the other: when the budget ends, every row has at least one opinion. The run counts the requests."""
    for judge in judges:
        requests = list(judge_requests(workspace, judge))
        run.rows_in += len(requests)
        ask(workspace, requests, judge, progress=progress, read=partial(_unusable, workspace))


def _unusable(workspace: Workspace, answer: Answer) -> Failure | None:
    """Why a judgment cannot be used."""
    result = _read_one(workspace, answer)
    return result if isinstance(result, Failure) else None


def _read_one(workspace: Workspace, answer: Answer) -> scoring.Scores | scoring.PairChoice | Failure:
    is_choice = answer.request.slot.count(":") > 1
    return scoring.choice_from(answer) if is_choice else scoring.scores_from(answer, project=workspace.project)


def read_judged(workspace: Workspace, run: int) -> int:
    """Turn the judges' answers that were not read yet into scores and choices; returns how many."""
    seqs = {identity: seq for seq, identity in records.ids_of(workspace.db).items()}
    seen = facts.calls_read(workspace.db) | facts.failed_calls(workspace.db, "score")
    scores: list[tuple[int, str, str, int, str, str | None]] = []
    choices: list[tuple[int, str, str, int | None, str, str | None]] = []
    failures: list[Failure] = []
    judges = scoring.judges_of(workspace.project)
    for simulated in sorted({is_simulated(judge) for judge in judges}):
        asked = [judge for judge in judges if is_simulated(judge) == simulated]
        current = {digest(workspace.project, judge) for judge in asked for digest in DIGESTS}
        for answer in CallLedger(workspace.db).answers("score", simulated=simulated):
            key, (identity, digest, *_) = answer.request.key, answer.request.slot.split(":")
            if key in seen or identity not in seqs or digest not in current:
                continue
            result = _read_one(workspace, answer)
            if isinstance(result, Failure):
                failures.append(result)
            elif isinstance(result, scoring.PairChoice):
                choices.append((seqs[identity], digest, result.order, result.winner, result.rationale, key))
            else:
                scores += [(seqs[identity], digest, c, v, result.rationales.get(c, ""), key) for c, v in result.values.items()]
                scores.append((seqs[identity], digest, "overall", result.overall, "", key))
                if result.difficulty is not None:
                    scores.append((seqs[identity], digest, scoring.DIFFICULTY, result.difficulty, "", key))
    facts.add_scores(workspace.db, scores, run)
    facts.add_choices(workspace.db, choices, run)
    facts.add_failures(workspace.db, failures, run)
    return len({s[5] for s in scores}) + len(choices)


def decide_panel(workspace: Workspace) -> scoring.PanelDecision:
    """Whether the panel is asked: its bound over all rows, beside the bound of writing the whole plan."""
    members = scoring.judges_of(workspace.project)[1:]
    if not members or workspace.project.score.panel == "never":
        return scoring.decide_panel(workspace.project, panel_usd=0.0, writing_usd=0.0)
    cells, parts = load_cells(workspace), _rows_to_judge(workspace)
    panel = sum(_judging_bound(workspace, rows, member, cells) for member in members for rows in parts)
    return scoring.decide_panel(workspace.project, panel_usd=panel, writing_usd=_writing_bound(workspace, cells))


def _judging_bound(workspace: Workspace, rows: Sequence[Row], judge: ModelSpec, cells: Sequence[Cell]) -> float:
    """The most that a judge's words on all rows can cost, from an even sample of them."""
    some = rows[:: max(1, len(rows) // SAMPLED)]
    asked = models.estimate_cost(_requests(workspace, some, judge, cells), judge, in_batch=judge.batch).cost_usd
    return asked * len(rows) / len(some) if some else 0.0


def _writing_bound(workspace: Workspace, cells: Sequence[Cell]) -> float:
    """The most that writing the whole plan can cost, in the same way."""
    some = cells[:: max(1, len(cells) // SAMPLED)]
    planned = generation.planned_requests(some, project=workspace.project, seeds=load_seeds(workspace.folder))
    writers = (workspace.project.models.teacher, *workspace.project.models.writers)
    asked = sum(models.estimate_cost(given, writers[n], in_batch=writers[n].batch).cost_usd for n, given in planned.items())
    return asked * len(cells) / len(some) if some else 0.0


def _rows_to_judge(workspace: Workspace) -> tuple[list[Row], list[Row]]:
    """Every instruction record, candidates of pairs included, once; and every pair."""
    singles = records.list_rows(workspace.db, "instruction") + records.list_rows(workspace.db, "instruction", role="candidate")
    return list({row.seq: row for row in singles}.values()), records.list_rows(workspace.db, "preference")


def judge_requests(workspace: Workspace, judge: ModelSpec) -> Iterator[Request]:
    """What a judge has not said yet and has not failed at."""
    singles, pairs = _rows_to_judge(workspace)
    scored = facts.scores_by_seq(workspace.db, scoring.rubric_digest(workspace.project, judge))
    compared = facts.choices_by_seq(workspace.db, scoring.pair_digest(workspace.project, judge))
    failed = facts.failed_slots(workspace.db, "score")
    rows = [row for row in singles if row.seq not in scored] + [row for row in pairs if len(compared.get(row.seq, ())) < 2]
    # Ids are hashes, so the first of them are a fair sample, and the same one each time.
    twice = sorted(singles, key=lambda row: row.id)[: workspace.project.score.repeat]
    done, cells = facts.scores_by_seq(workspace.db, scoring.repeat_digest(workspace.project, judge)) if twice else {}, load_cells(workspace)
    second = _requests(workspace, [row for row in twice if row.seq not in done], judge, cells, again=True)
    return (request for request in chain(_requests(workspace, rows, judge, cells), second) if request.slot not in failed)


def _requests(
    workspace: Workspace, rows: Sequence[Row], judge: ModelSpec, cells: Sequence[Cell], *, again: bool = False
) -> Iterator[Request]:
    attributes = {cell.id: cell.attributes for cell in cells}
    references = references_of(workspace, rows, cells)
    singles = (
        scoring.Scorable(row.id, record, references.get(row.seq), attributes.get(row.cell or ""))
        for row in rows
        if isinstance(record := row.record, InstructionRecord)
    )
    pairs = ((row.id, pair, references.get(row.seq)) for row in rows if isinstance(pair := row.record, PairRecord))
    return chain(
        scoring.requests_for(singles, project=workspace.project, judge=judge, repeat=again),
        scoring.pair_requests_for(pairs, project=workspace.project, judge=judge),
    )


def _tell(workspace: Workspace, *, asked: int) -> tuple[dict[str, Any], list[str]]:
    kept, notes = tell_kept(workspace)
    totals, failed, judged = totals_by_seq(workspace), count_failed(workspace, "score"), judged_by(workspace)
    counts: dict[str, Any] = {
        "asked": asked,
        "scored": len(totals),
        "at_or_above_threshold": sum(total >= workspace.project.score.threshold for total in totals.values()),
        "kept": {kind: told["kept"] for kind, told in kept.items()},
        "failed": sum(failed.values()),
        "failures": failed,
        "refusals": CallLedger(workspace.db).refusals("score"),
    }
    if len(judged) > 1:
        counts["scored_by"] = {judge.name: len(judge.totals) for judge in judged}
    return counts, [*kept_in_words(kept), *notes, *tell_judges(workspace)]
