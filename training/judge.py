"""Have the judge of a project compare a run's answers with the base model's, or with another run's: `train judge`.

The answers are those that `train eval` generated on a protected set, so nothing is generated here. Each pair is judged in both orders. A
choice that depends on the order is inconsistent and counts half, like a tie. Equal answers are ties and are not sent. `curation` asks and
pays: a response is on disk before it is read, the project's budget holds, and a judgment is bought once.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

from curation.errors import command
from curation.records import Message, canonical_json
from training.callbacks import Say
from training.config import RunFile
from training.errors import TrainingError
from training.evaluate import base_file, check_evaluation_set, evaluation_key, find_cached, load_items
from training.intervals import measure, verdict_of
from training.metrics import Subject
from training.results import EvaluationResult, JudgedItem, JudgedResult, MetricFacts
from training.run_folder import read_evaluations, require_finished, require_preflight, require_run, write_json
from training.run_page import write_page

if TYPE_CHECKING:
    from curation.stages.judge_answers import AnswerJudgments

SCHEMA = 1
POINTS = {"win": 1.0, "tie": 0.5, "inconsistent": 0.5, "equal": 0.5, "loss": 0.0}
Outcome = Literal["win", "loss", "tie", "inconsistent", "equal", "failed", "open"]
OUTCOMES: tuple[Outcome, ...] = get_args(Outcome)


def judge_run(run: RunFile, *, project: Path, against: Path | None = None, items: int | None = None, say: Say = print) -> JudgedResult:
    """Compare a run's answers with the base model's, or with another run's, by the judge of a project.

    Args:
        run: the run file, with the evaluation set.
        project: the project whose judge, rubric, brief and budget apply.
        against: another run folder; None for the base model.
        items: number of items, from the top; None for all.
        say: prints progress.

    Raises:
        TrainingError: one of the two was not measured with these settings, or a run was changed.
        BudgetReached: the budget does not allow a single judgment.
    """
    from curation.stages.judge_answers import AnswerPair, OrderedChoice, judge_answers

    report, done = require_preflight(run), require_finished(run)
    protected = check_evaluation_set(run, report, done)
    key = evaluation_key(run, report, sha256=protected.sha256)
    ours = next((found for found in read_evaluations(run.output, done.adapter_digest) if found.key == key), None)
    if ours is None:
        raise TrainingError(str(run.output), "was not evaluated with these settings", command("train", "eval", run.source))
    name, other, digest = _find_other(run, against, key=key, base=report.base.digest)
    loaded, system = load_items(run, report)
    subject = Subject(None, None, system=system, batch=1, merge=run.system == "merge")
    count = min(len(loaded), items or len(loaded))
    different = [place for place in range(count) if ours.answers[place].answer.strip() != other.answers[place].answer.strip()]
    pairs = [
        AnswerPair(
            prompt=tuple(Message.model_validate(message) for message in subject.prompt(loaded[place])),
            first=ours.answers[place].answer or "(no answer)",
            second=other.answers[place].answer or "(no answer)",
            reference=loaded[place].answer,
        )
        for place in different
    ]
    say(f"Judging {len(pairs)} of {count} items in both orders; {count - len(pairs)} have equal answers")
    found = judge_answers(project, pairs, progress=lambda stage, at, total, text: say(f"  {at} of {total} judgments, {text}"))
    judged = dict(zip(different, found.choices, strict=True))
    rows = tuple(
        JudgedItem(
            question=ours.answers[place].question, reference=ours.answers[place].reference, first=ours.answers[place].answer,
            second=other.answers[place].answer, outcome=outcome_of(judged[place]) if place in judged else "equal",
            rationales=tuple(choice.rationale for choice in judged.get(place, ()) if isinstance(choice, OrderedChoice)),
        )
        for place in range(count)
    )  # fmt: skip
    parts = [SCHEMA, key, done.adapter_digest, digest, found.digest, count]
    result = summarize(rows, found).model_copy(
        update={
            "subject": run.kind, "subject_digest": done.adapter_digest, "other": name, "other_digest": digest, "file": ours.file,
            "key": hashlib.sha256(canonical_json(parts)).hexdigest(),
        }
    )  # fmt: skip
    write_json(run.output / f"judged-{result.key[:12]}.json", result)
    write_page(run.output, done)
    return result


def _find_other(run: RunFile, against: Path | None, *, key: str, base: str) -> tuple[str, EvaluationResult, str]:
    """Return name, measurement and digest of the model that is compared with."""
    if against is None:
        found = find_cached(base_file(run, key), key=key, subject=base)
        if found is None:
            raise TrainingError("The base model", "was not measured with these settings", command("train", "eval", run.source, "--base"))
        return "base", found, base
    digest = require_run(against).adapter_digest
    measured = next((found for found in read_evaluations(against, digest) if found.key == key), None)
    if measured is None:
        fact = "was not measured with the same settings and base model"
        raise TrainingError(str(against), fact, command("train", "eval", against, "--eval", run.eval.file))
    return against.name, measured, digest


def outcome_of(both: Sequence[object]) -> Outcome:
    """Return the outcome of two choices, one for each order."""
    from curation.stages.judge_answers import OrderedChoice

    if any(choice is None for choice in both):
        return "open"
    made = [choice for choice in both if isinstance(choice, OrderedChoice)]
    if len(made) < len(both):
        return "failed"
    one, two = (choice.first_wins for choice in made)
    if one != two:
        return "inconsistent"
    return "tie" if one is None else "win" if one else "loss"


def summarize(rows: Sequence[JudgedItem], found: AnswerJudgments) -> JudgedResult:
    """Return the counts, rates with intervals, and the test; subject and other are filled in by the caller.

    Args:
        rows: the items with their outcomes.
        found: the judgments.
    """
    from scipy.stats import binomtest

    from curation.stages.judge_answers import OrderedChoice

    counts: Counter[str] = Counter(row.outcome for row in rows)
    points = [POINTS[row.outcome] for row in rows if row.outcome in POINTS]
    wins, decided = counts["win"], counts["win"] + counts["loss"]
    choices = [choice for both in found.choices for choice in both if isinstance(choice, OrderedChoice)]
    positions = [float(choice.chose_shown_first) for choice in choices if choice.chose_shown_first is not None]
    share, p, verdict = None, None, None
    if decided:
        test = binomtest(wins, decided)
        wilson, p = test.proportion_ci(method="wilson"), float(test.pvalue)
        share = MetricFacts(
            value=round(wins / decided, 4), n=decided, low=round(float(wilson.low), 4), high=round(float(wilson.high), 4), method="wilson"
        )
        verdict = verdict_of(p, share.low - 0.5, share.high - 0.5)
    return JudgedResult(
        schema=SCHEMA, subject="", subject_digest="", other="", other_digest="", key="",
        file={"name": "", "sha256": "", "set": ""},  # type: ignore[arg-type]
        judge=found.judge, simulated=found.simulated, counts={name: counts[name] for name in OUTCOMES},
        win_rate=measure(points) if points else None, decided=share, p=None if p is None else round(p, 4), verdict=verdict,
        shown_first=measure(positions) if positions else None, items=tuple(rows), cost_usd=found.cost_usd, stopped=found.stopped,
    )  # fmt: skip
