"""What writing and judging what is still missing may cost, before anything is sent: tokens counted by the provider on a sample where
it can count, bounded otherwise; answers as long as they may be.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from curation import generate as generation
from curation import models, standin_address
from curation import score as scoring
from curation.errors import ModelUnavailable
from curation.pipeline import foreseen
from curation.pipeline.asking import is_simulated
from curation.pipeline.bench import Bench, Summary, load_cells, load_seeds, open_bench
from curation.pipeline.checking import check_before
from curation.pipeline.judging import decide_panel, judge_requests
from curation.pipeline.refilling import standing
from curation.pipeline.rounds import FELL_SHOWN
from curation.plan import Cell
from curation.project import ModelSpec
from curation.requests import Request
from curation.store import CallLedger, records

SAMPLED = 24
"""Requests of each kind that the provider is asked to count."""
DOUBTFUL = "if every row lies just below the screen's cut"
BATCH_TIME = "A batch mostly ends within an hour and at the latest after 24 hours."
_LIKELY_FROM = 20
"""Earlier answers, or rows, from which their mean length, or the share that fell, is worth telling."""


@dataclass(frozen=True)
class Share:
    """What one model would be asked in one stage."""

    stage: str
    model: str
    provider: str
    calls: int
    prompt_tokens: int
    output_tokens: int
    """At most."""
    counted: str
    """How the prompt's tokens are known."""
    cost_usd: float
    """With answers as long as they may be."""
    likely_usd: float | None
    """With answers as long as the earlier ones were, where there are enough of them."""
    price_date: str
    in_batch: bool
    assumes: str = ""
    """What has to happen for it to cost so much."""

    @property
    def sentence(self) -> str:
        """For the screen."""
        way = "in batches" if self.in_batch else "one by one"
        assumes = f", {self.assumes}" if self.assumes else ""
        likely = "" if self.likely_usd is None else f"; likely ${self.likely_usd:,.2f}"
        return (
            f"{self.stage}: {self.calls:,} calls {way} to {self.model}, {self.prompt_tokens:,} prompt tokens ({self.counted}) and at most "
            f"{self.output_tokens:,} written: at most ${self.cost_usd:,.2f} at the prices of {self.price_date}{assumes}{likely}."
        )


def estimate(folder: Path) -> Summary:
    """What `generate`, `score`, `screen` and `refill` may cost for what is missing now; the models are looked at, nothing is billed."""
    with open_bench(folder) as bench:
        known, notes = check_before(bench)
        cells, made = load_cells(bench), records.cells_made(bench.db)
        missing = [cell for cell in cells if cell.id not in made]
        shares = [share for share in _shares(bench, missing) if share.calls]
        again = [share for share in _again(bench, missing) if share.calls]
        total, refill = (sum(share.cost_usd for share in some) for some in (shares, again))
        spent = CallLedger(bench.db).spent_usd(simulated=is_simulated(bench.project.models.teacher))
        budget, rows = bench.project.budget.usd, len(missing)
        counts: dict[str, Any] = {
            "calls": sum(share.calls for share in shares),
            "models": known,
            "prompt_tokens": sum(share.prompt_tokens for share in shares),
            "output_tokens": sum(share.output_tokens for share in shares),
            "cost_usd": total,
            "usd_per_row": total / rows if rows else None,
            "refill_usd": refill,
            "spent_usd": spent,
            "budget_usd": budget,
            "shares": [vars(share) for share in (*shares, *again)],
        }
        said = [share.sentence for share in (*shares, *again)]
        notes = [*said, *_advice(total, refill, budget - spent, (*shares, *again)), *notes, "Nothing was sent but questions."]
        return Summary("generate --dry-run", len(cells), rows, counts, notes)


def _advice(total: float, refill: float, left: float, shares: Sequence[Share]) -> list[str]:
    fits = "which is enough"
    if total > left:
        fits = "so the run may stop there, clean, with what it has; raise budget.usd to let it go on"
    elif total + refill > left:
        fits += " before the refill; should most rows fall, that may stop there, clean"
    notes = [f"The budget has ${max(left, 0):,.2f} left, {fits}."]
    return [*notes, BATCH_TIME] if any(share.in_batch for share in shares) else notes


def _shares(bench: Bench, missing: Sequence[Cell]) -> Iterator[Share]:
    """What is missing, and what the rows that are there still lack."""
    for judge in _judges(bench):
        yield _share(bench, "score", list(judge_requests(bench, judge)), judge)
    yield _leaks(bench, "leak judge", foreseen.doubts_of_rows(bench))
    yield from _planned(bench, missing)


def _planned(bench: Bench, cells: Sequence[Cell]) -> Iterator[Share]:
    """To write these cells, judge what is written and ask the leak judge; what is written is as long as it may be."""
    project, teacher = bench.project, bench.project.models.teacher
    for place, requests in sorted(generation.planned_requests(cells, project=project, seeds=load_seeds(bench.folder)).items()):
        yield _share(bench, "generate", requests, (teacher, *project.models.writers)[place])
    longest = teacher.max_tokens * max((cell.turns for cell in cells), default=1)
    for judge in _judges(bench):
        yield _share(bench, "score of what is planned", list(foreseen.judgments_of(cells, bench, judge)), judge, more_tokens=longest)
    yield _leaks(bench, "leak judge of what is planned", foreseen.doubts_of(cells, bench), more_tokens=longest)


def _leaks(bench: Bench, stage: str, doubts: Sequence[Request], *, more_tokens: int = 0) -> Share:
    """Any row may be a doubtful one; likely are as many as at the last screen."""
    share = _share(bench, stage, doubts, bench.project.models.leaks, more_tokens=more_tokens, assumes=DOUBTFUL)
    doubtful = foreseen.doubtful_share(bench, at_least=_LIKELY_FROM)
    likely = share.cost_usd if share.likely_usd is None else share.likely_usd
    return replace(share, likely_usd=None if doubtful is None else likely * doubtful)


def _judges(bench: Bench) -> Sequence[ModelSpec]:
    if bench.project.score.is_off:
        return ()
    return scoring.judges_of(bench.project) if decide_panel(bench).used else (bench.project.models.judge,)


def _again(bench: Bench, missing: Sequence[Cell]) -> Iterator[Share]:
    """What the refill may add: all of it again, as often as a cell may be asked again; and as many of them as fell so far."""
    plan, now = bench.project.plan, standing(bench)
    shown = plan.model_copy(update={"avoid": max(plan.avoid, FELL_SHOWN)})
    bench = replace(bench, project=bench.project.model_copy(update={"plan": shown}))
    fell = foreseen.fallen_share(bench, now, at_least=_LIKELY_FROM)
    for (times, has_fallen), cells in foreseen.refills(missing, now, rounds=plan.refill.rounds).items():
        for share in _planned(bench, cells):
            yield _repeated(share, times, fell=fell, certain=has_fallen)


def _repeated(share: Share, times: int, *, fell: float | None, certain: bool) -> Share:
    """A share of the refill. A row that has fallen is asked for once more for sure, and each time as many fall again."""
    assumes = f"if every row fell {'again' if certain else 'short'} each of {times} times" if times > 1 else "if every row fell short"
    expected = None if fell is None else sum(fell ** (n if certain else n + 1) for n in range(times))
    once = share.cost_usd if share.likely_usd is None else share.likely_usd
    return replace(
        share,
        stage=f"refill, {share.stage}",
        calls=share.calls * times,
        prompt_tokens=share.prompt_tokens * times,
        output_tokens=share.output_tokens * times,
        cost_usd=share.cost_usd * times,
        likely_usd=None if expected is None else once * expected,
        assumes=" and ".join(filter(None, (assumes, share.assumes.removeprefix("if ")))),
    )


def _share(bench: Bench, stage: str, requests: Sequence[Request], spec: ModelSpec, *, more_tokens: int = 0, assumes: str = "") -> Share:
    bound = models.estimate_cost(requests, spec, in_batch=spec.batch)
    prompt, output, how = bound.prompt_tokens, bound.output_tokens, "bounded by their bytes"
    sample = [request.body for request in requests[:: max(1, len(requests) // SAMPLED)]]
    counts = _count(bench, sample, spec) if sample else "nothing to count"
    if isinstance(counts, list):
        prompt = round(sum(counts) / len(counts) * len(requests))
        how = "counted by the provider" if len(counts) == len(requests) else f"counted by the provider on {len(counts)} of them"
    elif sample:
        how += f", since {counts}"
    prompt += more_tokens * len(requests)
    usd = models.usd_of(prompt, output, spec, in_batch=spec.batch)
    mean = _earlier_length(bench, stage, spec)
    likely = None if mean is None else models.usd_of(prompt, round(mean * len(requests)), spec, in_batch=spec.batch)
    return Share(stage, spec.model, spec.provider, len(requests), prompt, output, how, usd, likely, bound.price_date, spec.batch, assumes)


def _count(bench: Bench, bodies: Sequence[dict[str, Any]], spec: ModelSpec) -> list[int] | str:
    if not models.has_key(spec, os.environ):
        return f"{models.key_name(spec)} is not set"
    try:
        base_url = spec.base_url or (standin_address.read_address(bench.folder) if is_simulated(spec) else None)
    except ModelUnavailable as error:
        return f"{error.what} {error.fact}"
    return models.count_tokens(bodies, spec, environ=os.environ, base_url=base_url, folder=bench.folder)


def _earlier_length(bench: Bench, stage: str, spec: ModelSpec) -> float | None:
    """Mean tokens of the earlier answers of this stage and model."""
    rows = [
        row
        for row in CallLedger(bench.db).costs()
        if stage.startswith(row.stage) and (row.model, row.provider) == (spec.model, spec.provider) and row.answered >= _LIKELY_FROM
    ]
    return sum(row.output_tokens for row in rows) / sum(row.answered for row in rows) if rows else None
