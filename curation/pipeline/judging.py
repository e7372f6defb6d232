"""The stage in which the judges score. Core: score/."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

from curation import generate as generation
from curation import models
from curation import score as scoring
from curation.errors import BudgetReached, UnusableAnswers
from curation.pipeline.asking import Progress, ask, count_failed, is_simulated, settle_earlier
from curation.pipeline.bench import Bench, Summary, load_cells, load_seeds, open_bench, references_of
from curation.pipeline.facts_of_judging import tell_judges
from curation.pipeline.judged import judged_by, totals_by_seq
from curation.pipeline.keeping import kept_in_words, tell_kept
from curation.pipeline.pairing import pair_up
from curation.plan import Cell
from curation.project import ModelSpec
from curation.records import InstructionRecord, PairRecord
from curation.requests import Answer, Failure, Request
from curation.store import CallLedger, facts, records, runs
from curation.store.records import Row
from curation.store.runs import Run

__all__ = ["judge_requests", "read_judged", "score", "totals_by_seq"]

DIGESTS = (scoring.rubric_digest, scoring.pair_digest, scoring.again_digest)
SAMPLED = 100
"""Requests looked at to estimate what all of them cost."""


def score(folder: Path, *, progress: Progress | None = None) -> Summary:
    """Have the judges score what has no score under the present rubric, and compare pairs in both orders. Core: score/."""
    with open_bench(folder) as bench:
        if bench.project.score.is_off:
            return Summary("score", notes=["project.yaml has score: null, so no judge is asked."])
        with runs.record_run(bench.db, "score", scoring.rubric_digest(bench.project)) as run:
            left = settle_earlier(bench)
            read_judged(bench, run.number)
            panel, stopped, unusable = decide_panel(bench), "", None
            judges = scoring.judges_of(bench.project) if panel.used else (bench.project.models.judge,)
            try:
                _ask_judges(bench, judges, progress, run)
                run.rows_out += read_judged(bench, run.number)
                if pair_up(bench, run.number):  # pairs out of candidates that are judged now are then compared themselves
                    _ask_judges(bench, judges, progress, run)
            except BudgetReached as error:
                stopped = str(error)
            except UnusableAnswers as error:
                unusable = error
            finally:
                run.rows_out += read_judged(bench, run.number)
            counts, notes = _tell(bench, asked=run.rows_in)
            run.detail = {**counts, "panel": panel.why}
        if unusable is not None:  # what came before is kept, and the run is in the record
            raise unusable
        said = [*left, stopped, panel.why, *notes]
        return Summary("score", run.rows_in, run.rows_out, counts, [note for note in said if note])


def _ask_judges(bench: Bench, judges: Sequence[ModelSpec], progress: Progress | None, run: Run) -> None:
    """Ask one judge after the other: when the budget ends, every row has at least one opinion. The run counts the requests."""
    for judge in judges:
        requests = list(judge_requests(bench, judge))
        run.rows_in += len(requests)
        ask(bench, requests, judge, progress=progress, read=partial(_unusable, bench))


def _unusable(bench: Bench, answer: Answer) -> Failure | None:
    """Why a judgment cannot be used."""
    result = _read_one(bench, answer)
    return result if isinstance(result, Failure) else None


def _read_one(bench: Bench, answer: Answer) -> scoring.Scores | scoring.PairChoice | Failure:
    is_choice = answer.request.slot.count(":") > 1
    return scoring.choice_from(answer) if is_choice else scoring.scores_from(answer, project=bench.project)


def read_judged(bench: Bench, run: int) -> int:
    """Turn the judges' answers that were not read yet into scores and choices; returns how many."""
    seqs = {identity: seq for seq, identity in records.ids_of(bench.db).items()}
    seen = facts.calls_read(bench.db) | facts.failed_calls(bench.db, "score")
    scores: list[tuple[int, str, str, int, str, str | None]] = []
    choices: list[tuple[int, str, str, int | None, str, str | None]] = []
    failures: list[Failure] = []
    judges = scoring.judges_of(bench.project)
    for simulated in sorted({is_simulated(judge) for judge in judges}):
        asked = [judge for judge in judges if is_simulated(judge) == simulated]
        current = {digest(bench.project, judge) for judge in asked for digest in DIGESTS}
        for answer in CallLedger(bench.db).answers("score", simulated=simulated):
            key, (identity, digest, *_) = answer.request.key, answer.request.slot.split(":")
            if key in seen or identity not in seqs or digest not in current:
                continue
            result = _read_one(bench, answer)
            if isinstance(result, Failure):
                failures.append(result)
            elif isinstance(result, scoring.PairChoice):
                choices.append((seqs[identity], digest, result.order, result.winner, result.rationale, key))
            else:
                scores += [(seqs[identity], digest, c, v, result.rationales.get(c, ""), key) for c, v in result.values.items()]
                scores.append((seqs[identity], digest, "overall", result.overall, "", key))
                if result.difficulty is not None:
                    scores.append((seqs[identity], digest, scoring.DIFFICULTY, result.difficulty, "", key))
    facts.add_scores(bench.db, scores, run)
    facts.add_choices(bench.db, choices, run)
    facts.add_failures(bench.db, failures, run)
    return len({s[5] for s in scores}) + len(choices)


def decide_panel(bench: Bench) -> scoring.PanelDecision:
    """Whether the panel is asked: its bound over all rows, beside the bound of writing the whole plan."""
    members = scoring.judges_of(bench.project)[1:]
    if not members or bench.project.score.panel == "never":
        return scoring.decide_panel(bench.project, panel_usd=0.0, writing_usd=0.0)
    cells, parts = load_cells(bench), _rows_to_judge(bench)
    panel = sum(_judging_bound(bench, rows, member, cells) for member in members for rows in parts)
    return scoring.decide_panel(bench.project, panel_usd=panel, writing_usd=_writing_bound(bench, cells))


def _judging_bound(bench: Bench, rows: Sequence[Row], judge: ModelSpec, cells: Sequence[Cell]) -> float:
    """The most that a judge's words on all rows can cost, from an even sample of them."""
    some = rows[:: max(1, len(rows) // SAMPLED)]
    asked = models.estimate_cost(_requests(bench, some, judge, cells), judge, in_batch=judge.batch).cost_usd
    return asked * len(rows) / len(some) if some else 0.0


def _writing_bound(bench: Bench, cells: Sequence[Cell]) -> float:
    """The most that writing the whole plan can cost, in the same way."""
    some = cells[:: max(1, len(cells) // SAMPLED)]
    planned = generation.planned_requests(some, project=bench.project, seeds=load_seeds(bench.folder))
    writers = (bench.project.models.teacher, *bench.project.models.writers)
    asked = sum(models.estimate_cost(given, writers[n], in_batch=writers[n].batch).cost_usd for n, given in planned.items())
    return asked * len(cells) / len(some) if some else 0.0


def _rows_to_judge(bench: Bench) -> tuple[list[Row], list[Row]]:
    """Every instruction record, candidates of pairs included, once; and every pair."""
    singles = records.list_rows(bench.db, "instruction") + records.list_rows(bench.db, "instruction", role="candidate")
    return list({row.seq: row for row in singles}.values()), records.list_rows(bench.db, "preference")


def judge_requests(bench: Bench, judge: ModelSpec) -> Iterator[Request]:
    """What a judge has not said yet and has not failed at."""
    singles, pairs = _rows_to_judge(bench)
    scored = facts.scores_by_seq(bench.db, scoring.rubric_digest(bench.project, judge))
    compared = facts.choices_by_seq(bench.db, scoring.pair_digest(bench.project, judge))
    failed = facts.failed_slots(bench.db, "score")
    rows = [row for row in singles if row.seq not in scored] + [row for row in pairs if len(compared.get(row.seq, ())) < 2]
    # Ids are hashes, so the first of them are a fair sample, and the same one each time.
    twice = sorted(singles, key=lambda row: row.id)[: bench.project.score.repeat]
    done, cells = facts.scores_by_seq(bench.db, scoring.again_digest(bench.project, judge)) if twice else {}, load_cells(bench)
    second = _requests(bench, [row for row in twice if row.seq not in done], judge, cells, again=True)
    return (request for request in chain(_requests(bench, rows, judge, cells), second) if request.slot not in failed)


def _requests(bench: Bench, rows: Sequence[Row], judge: ModelSpec, cells: Sequence[Cell], *, again: bool = False) -> Iterator[Request]:
    attributes = {cell.id: cell.attributes for cell in cells}
    references = references_of(bench, rows, cells)
    singles = (
        scoring.Scorable(row.id, record, references.get(row.seq), attributes.get(row.cell or ""))
        for row in rows
        if isinstance(record := row.record, InstructionRecord)
    )
    pairs = ((row.id, pair, references.get(row.seq)) for row in rows if isinstance(pair := row.record, PairRecord))
    return chain(
        scoring.requests_for(singles, project=bench.project, judge=judge, again=again),
        scoring.pair_requests_for(pairs, project=bench.project, judge=judge),
    )


def _tell(bench: Bench, *, asked: int) -> tuple[dict[str, Any], list[str]]:
    kept, notes = tell_kept(bench)
    totals, failed, judged = totals_by_seq(bench), count_failed(bench, "score"), judged_by(bench)
    counts: dict[str, Any] = {
        "asked": asked,
        "scored": len(totals),
        "at_or_above_threshold": sum(total >= bench.project.score.threshold for total in totals.values()),
        "kept": {kind: told["kept"] for kind, told in kept.items()},
        "failed": sum(failed.values()),
        "failures": failed,
        "refusals": CallLedger(bench.db).refusals("score"),
    }
    if len(judged) > 1:
        counts["scored_by"] = {judge.name: len(judge.totals) for judge in judged}
    return counts, [*kept_in_words(kept), *notes, *tell_judges(bench)]
