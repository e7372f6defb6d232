"""The stage in which the judge scores. Core: score.py."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from curation import score as scoring
from curation.errors import BudgetReached
from curation.pipeline.asking import Progress, ask, count_failed, is_simulated
from curation.pipeline.bench import Bench, Summary, load_cells, open_bench, references_of
from curation.records import InstructionRecord
from curation.requests import Failure, Request
from curation.store import CallLedger, facts, records, runs


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
