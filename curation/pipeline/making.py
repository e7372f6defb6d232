"""The stages that ask models: plan, generate, score. Core: plan.py, generate.py, score.py."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from curation import generate as generation
from curation import models, standin_address
from curation import score as scoring
from curation.errors import BudgetReached, ProjectError
from curation.pipeline.bench import Bench, Summary, load_cells, load_grounding, load_protected, load_seeds, open_bench, references_of
from curation.plan import Cell, coverage, make_plan
from curation.project import ModelSpec, settings_digest
from curation.records import KINDS, InstructionRecord, Record
from curation.requests import Failure, Request
from curation.store import CallLedger, facts, records, runs
from curation.store.records import Origin

Progress = Callable[[str, int, int, str], None]
"""Told (stage, done, total, a few words)."""


def plan(folder: Path) -> Summary:
    """Lay out what to write, cell by cell. Raising a count in project.yaml only adds cells. Core: plan.py."""
    with open_bench(folder) as bench:
        protected = [text for items in load_protected(bench) for text in items.texts]
        digest = settings_digest(bench.project.plan)
        with runs.record_run(bench.db, "plan", digest) as run:
            cells = make_plan(bench.project, table=load_grounding(bench), protected_texts=protected)
            added = records.add_cells(bench.db, ((c.id, c.kind, c.ordinal, c.model_dump_json().encode()) for c in cells))
            run.rows_in = run.rows_out = len(cells)
            done = records.cells_made(bench.db)
        shares = coverage(cells, done)
        by_kind = dict[str, int]((kind, sum(c.kind == kind for c in cells)) for kind in KINDS)
        counts = {"cells": len(cells), "new": added, **by_kind, "attributes": shares}
        warning = models.same_family(bench.project.models)
        notes = [f"Note: {warning}."] if warning else []
        return Summary("plan", len(cells), len(cells), counts, notes)


def generate(folder: Path, *, progress: Progress | None = None, retry_failed: bool = False) -> Summary:
    """Have the teacher write the cells that have no record yet. Every answer is on disk before it is read. Core: generate.py."""
    with open_bench(folder) as bench:
        cells = load_cells(bench)
        if not cells:
            raise ProjectError(str(folder), "has no plan yet", f"curate plan {folder}")
        spec = bench.project.models.teacher
        with runs.record_run(bench.db, "generate", generation.generation_digest(bench.project, "instruction")) as run:
            read_generated(bench, cells, run.number)
            made, failed = records.cells_made(bench.db), facts.failed_slots(bench.db, "generate")
            missing = [c for c in cells if c.id not in made and (retry_failed or c.id not in failed)]
            run.rows_in = len(missing)
            protected = [text for items in load_protected(bench) for text in items.texts]
            requests = generation.requests_for(missing, project=bench.project, seeds=load_seeds(folder), protected_texts=protected)
            if retry_failed:
                requests = (r.model_copy(update={"attempt": _attempts(bench, r.slot)}) for r in requests)
            stopped = ""
            try:
                ask(bench, requests, spec, progress=progress)
            except BudgetReached as error:
                stopped = str(error)
            finally:
                new = read_generated(bench, cells, run.number)
            run.rows_out = new
            run.detail = {"asked": len(missing), "records": new}
            return _tell_generated(bench, cells, run.rows_in, new, stopped)


def score(folder: Path, *, progress: Progress | None = None) -> Summary:
    """Have the judge score what has no score under the present rubric, and compare pairs in both orders. Core: score.py."""
    with open_bench(folder) as bench:
        rubric, pairwise = scoring.rubric_digest(bench.project), scoring.pair_digest(bench.project)
        with runs.record_run(bench.db, "score", rubric) as run:
            read_judged(bench, run.number)
            requests = list(_judge_requests(bench, rubric, pairwise))
            run.rows_in = len(requests)
            stopped = ""
            try:
                ask(bench, requests, bench.project.models.judge, progress=progress)
            except BudgetReached as error:
                stopped = str(error)
            finally:
                run.rows_out = read_judged(bench, run.number)
        totals = [total for total in totals_by_seq(bench).values()]
        keeps = sum(total >= bench.project.score.threshold for total in totals)
        failed = count_failed(bench, "score")
        counts = {
            "asked": len(requests),
            "scored": len(totals),
            "at_or_above_threshold": keeps,
            "failed": sum(failed.values()),
            "failures": failed,
        }
        return Summary("score", run.rows_in, run.rows_out, counts, [stopped] if stopped else [])


def estimate(folder: Path) -> Summary:
    """What writing and scoring what is still missing would cost, as an upper bound; nothing is sent."""
    with open_bench(folder) as bench:
        cells, made = load_cells(bench), records.cells_made(bench.db)
        missing = [c for c in cells if c.id not in made]
        requests = list(generation.requests_for(missing, project=bench.project, seeds=load_seeds(folder)))
        bound = models.estimate_cost(requests, bench.project.models.teacher)
        counts = {"calls": len(requests), **{k: v for k, v in vars(bound).items()}, "budget_usd": bench.project.budget.usd}
        return Summary("generate --dry-run", len(cells), len(requests), counts, ["Nothing was sent."])


def ask(bench: Bench, requests: Iterable[Request], spec: ModelSpec, *, progress: Progress | None) -> None:
    """Send what has no answer yet. The model is opened only when there is something to send."""
    todo = list(requests)
    if not todo:
        return
    simulated = is_simulated(spec)
    base_url = spec.base_url or (standin_address.read_address(bench.folder) if simulated else None)

    def tell(at: models.AskProgress) -> None:
        if progress:
            progress(todo[0].stage, at.done, at.total or len(todo), f"${at.cost_usd:.3f}, {at.failed} failed")

    send = models.ask_batch if spec.batch else models.ask
    send(
        todo,
        model=models.open_model(spec, environ=os.environ, base_url=base_url),
        spec=spec,
        ledger=CallLedger(bench.db),
        budget_usd=bench.project.budget.usd,
        simulated=simulated,
        progress=tell,
    )


def is_simulated(spec: ModelSpec) -> bool:
    """Whether the offline stand-in answers for this model; its answers and its money never mix with real ones."""
    return spec.provider == "offline-stand-in"


def read_generated(bench: Bench, cells: Sequence[Cell], run: int) -> int:
    """Turn the teacher's answers that were not read yet into records; returns how many rows they gave."""
    by_id = {cell.id: cell for cell in cells}
    seen = records.origin_sources(bench.db, "generated") | facts.failed_calls(bench.db, "generate")
    made: list[tuple[Record, Origin]] = []
    failures: list[Failure] = []
    for answer in CallLedger(bench.db).answers("generate", simulated=is_simulated(bench.project.models.teacher)):
        key = answer.request.key
        if key in seen or answer.request.slot not in by_id:
            continue
        cell = by_id[answer.request.slot]
        for result in generation.records_from(answer, cell, project=bench.project):
            if isinstance(result, Failure):
                failures.append(result)
                continue
            made.append((result.record, Origin("generated", key, result.item, 0, cell.id, result.better, raw=result.raw)))
            made += [(c, Origin("generated", key, result.item, part, cell.id)) for part, c in enumerate(result.candidates, 1)]
    for start in range(0, len(made), 5000):
        records.add_records(bench.db, made[start : start + 5000], run)
    facts.add_failures(bench.db, failures, run)
    return sum(origin.part == 0 for _, origin in made)


def read_judged(bench: Bench, run: int) -> int:
    """Turn the judge's answers that were not read yet into scores and choices; returns how many."""
    seqs = {identity: seq for seq, identity in records.ids_of(bench.db).items()}
    seen = facts.calls_read(bench.db) | facts.failed_calls(bench.db, "score")
    current = {scoring.rubric_digest(bench.project), scoring.pair_digest(bench.project)}
    scores: list[tuple[int, str, str, int, str, str | None]] = []
    choices: list[tuple[int, str, str, int | None, str, str | None]] = []
    failures: list[Failure] = []
    for answer in CallLedger(bench.db).answers("score", simulated=is_simulated(bench.project.models.judge)):
        key, (identity, digest, *order) = answer.request.key, answer.request.slot.split(":")
        if key in seen or identity not in seqs or digest not in current:
            continue
        result = scoring.choice_from(answer) if order else scoring.scores_from(answer, project=bench.project)
        if isinstance(result, Failure):
            failures.append(result)
        elif isinstance(result, scoring.PairChoice):
            choices.append((seqs[identity], digest, result.order, result.winner, result.rationale, key))
        else:
            scores += [(seqs[identity], digest, c, v, result.rationales.get(c, ""), key) for c, v in result.values.items()]
            scores.append((seqs[identity], digest, "overall", result.overall, "", key))
    facts.add_scores(bench.db, scores, run)
    facts.add_choices(bench.db, choices, run)
    facts.add_failures(bench.db, failures, run)
    return len({s[5] for s in scores}) + len(choices)


def count_failed(bench: Bench, stage: str) -> dict[str, int]:
    """Reason to count: answers that could not be used, and calls that got none."""
    unanswered = Counter(failure.reason for failure in CallLedger(bench.db).failures(stage))
    return dict(Counter(facts.failure_counts(bench.db).get(stage, {})) + unanswered)


def totals_by_seq(bench: Bench) -> dict[int, float]:
    """Total (0 to 10) of every record scored under the present rubric."""
    found = facts.scores_by_seq(bench.db, scoring.rubric_digest(bench.project))
    criteria = set(bench.project.score.rubric)
    return {
        seq: scoring.total_of({c: v for c, v in values.items() if c in criteria})
        for seq, values in found.items()
        if criteria <= values.keys()
    }


def _judge_requests(bench: Bench, rubric: str, pairwise: str) -> Iterator[Request]:
    cells = load_cells(bench)
    attributes = {cell.id: cell.attributes for cell in cells}
    singles = records.list_rows(bench.db, "instruction") + records.list_rows(bench.db, "instruction", role="candidate")
    unique = {row.seq: row for row in singles}
    pairs = records.list_rows(bench.db, "preference")
    references = references_of(bench, [*unique.values(), *pairs], cells)
    scored, compared = facts.scores_by_seq(bench.db, rubric), facts.choices_by_seq(bench.db, pairwise)
    failed = facts.failed_slots(bench.db, "score")
    todo = [row for row in unique.values() if row.seq not in scored and f"{row.id}:{rubric}" not in failed]
    yield from scoring.requests_for(
        [
            scoring.Scorable(row.id, row.record, references.get(row.seq), attributes.get(row.cell or ""))
            for row in todo
            if isinstance(row.record, InstructionRecord)
        ],
        project=bench.project,
    )
    rivals = [
        (row.id, row.record, references.get(row.seq))
        for row in pairs
        if len(compared.get(row.seq, ())) < 2 and row.record.kind == "preference"
    ]
    requests = scoring.pair_requests_for(rivals, project=bench.project)  # type: ignore[arg-type]
    yield from (request for request in requests if request.slot not in failed)


def _attempts(bench: Bench, slot: str) -> int:
    return facts.count_failures(bench.db, "generate", slot)


def _tell_generated(bench: Bench, cells: Sequence[Cell], asked: int, new: int, stopped: str) -> Summary:
    made = records.cells_made(bench.db)
    failures = count_failed(bench, "generate")
    by_kind = dict[str, int]((kind, sum(c.id in made and c.kind == kind for c in cells)) for kind in KINDS)
    counts = {"asked": asked, **by_kind, "cells_filled": len(made & {c.id for c in cells}), "cells": len(cells), "failures": failures}
    notes = [stopped] if stopped else []
    if bench.project.models.teacher.provider == "offline-stand-in":
        notes.append("The teacher is the offline stand-in: made-up examples, for trying things out.")
    return Summary("generate", asked, new, counts, notes)
