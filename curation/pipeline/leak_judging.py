"""Rows that the screen is not sure of, asked of the leak judge. Core: leakage/judge.py."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from curation.errors import BudgetReached, UnusableAnswers
from curation.leakage.judge import STAGE, Doubt, Verdict, leak_digest, requests_for, verdict_from
from curation.pipeline.asking import Progress, ask, is_simulated
from curation.pipeline.bench import Bench
from curation.requests import Answer, Failure
from curation.store import CallLedger, facts
from curation.store.facts import Finding

_KINDS = {"yes": "leak_judged", "unsure": "leak_unsure", "no": "leak_cleared"}


def judge_doubts(bench: Bench, doubts: Mapping[int, Doubt], *, run: int, progress: Progress | None) -> tuple[list[Finding], list[str]]:
    """The judge's verdict on each doubtful row (by seq) as a finding, and notes; a verdict on disk is never bought again.

    "yes" takes the row out; "unsure" and "no" are kept beside it with the rationale, for people.
    """
    judge = bench.project.models.leak_judge or bench.project.models.judge
    stopped = ""
    try:
        ask(bench, list(requests_for(doubts.values(), judge=judge)), judge, progress=progress, read=_unusable)
    except (BudgetReached, UnusableAnswers) as error:
        stopped = str(error)
    read = _read(bench, list(doubts.values()), run)
    found = [_finding(seq, doubt, read[doubt.row, doubt.item]) for seq, doubt in doubts.items() if (doubt.row, doubt.item) in read]
    missing = len(doubts) - len(found)
    notes = [f"{missing:,} doubtful rows have no verdict of the leak judge; they stay in."] if missing else []
    return found, [note for note in (stopped, *notes) if note]


def _unusable(answer: Answer) -> Failure | None:
    verdict = verdict_from(answer)
    return verdict if isinstance(verdict, Failure) else None


def _read(bench: Bench, doubts: Sequence[Doubt], run: int) -> dict[tuple[str, str], Verdict]:
    judge = bench.project.models.leak_judge or bench.project.models.judge
    wanted, digest = {(doubt.row, doubt.item) for doubt in doubts}, leak_digest(judge)
    verdicts: dict[tuple[str, str], Verdict] = {}
    failures: list[Failure] = []
    for answer in CallLedger(bench.db).answers(STAGE, simulated=is_simulated(judge)):
        row, asked_under, item = answer.request.slot.split(":", 2)
        if asked_under != digest or (row, item) not in wanted:
            continue
        verdict = verdict_from(answer)
        if isinstance(verdict, Failure):
            failures.append(verdict)
        else:
            verdicts[row, item] = verdict
    facts.add_failures(bench.db, failures, run)
    return verdicts


def _finding(seq: int, doubt: Doubt, verdict: Verdict) -> Finding:
    evidence = f"leak judge: {verdict.same}. {verdict.rationale}"
    return Finding(seq, "screen", _KINDS[verdict.same], verdict.same == "yes", item=doubt.item, evidence=evidence)
