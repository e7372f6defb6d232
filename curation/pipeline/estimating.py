"""What writing and judging what is still missing may cost, before anything is sent: tokens counted by the provider on a sample where
it can count, bounded otherwise; answers as long as they may be.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from curation import generate as generation
from curation import models, standin_address
from curation import score as scoring
from curation.errors import ModelUnavailable
from curation.pipeline.asking import is_simulated
from curation.pipeline.bench import Bench, Summary, load_cells, load_seeds, open_bench
from curation.pipeline.checking import check_before
from curation.pipeline.judging import decide_panel, judge_requests
from curation.plan import Cell
from curation.project import ModelSpec
from curation.records import make_instruction, make_pair
from curation.requests import Request
from curation.store import CallLedger, records

SAMPLED = 24
"""Requests of each kind that the provider is asked to count."""
BATCH_TIME = "A batch mostly ends within an hour and at the latest after 24 hours."
_LIKELY_FROM = 20
"""Earlier answers from which their mean length is worth telling."""


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

    @property
    def sentence(self) -> str:
        """For the screen."""
        way = "in batches" if self.in_batch else "one by one"
        likely = "" if self.likely_usd is None else f", likely ${self.likely_usd:,.2f}"
        return (
            f"{self.stage}: {self.calls:,} calls {way} to {self.model}, {self.prompt_tokens:,} prompt tokens ({self.counted}) and at most "
            f"{self.output_tokens:,} written: at most ${self.cost_usd:,.2f}{likely} at the prices of {self.price_date}."
        )


def estimate(folder: Path) -> Summary:
    """What `generate` and then `score` may cost for what is missing now; the models are looked at, nothing is billed."""
    with open_bench(folder) as bench:
        known, notes = check_before(bench)
        cells, made = load_cells(bench), records.cells_made(bench.db)
        missing = [cell for cell in cells if cell.id not in made]
        shares = [share for share in _shares(bench, missing) if share.calls]
        total = sum(share.cost_usd for share in shares)
        spent = CallLedger(bench.db).spent_usd(simulated=is_simulated(bench.project.models.teacher))
        budget = bench.project.budget.usd
        rows = len(missing)
        counts: dict[str, Any] = {
            "calls": sum(share.calls for share in shares),
            "models": known,
            "prompt_tokens": sum(share.prompt_tokens for share in shares),
            "output_tokens": sum(share.output_tokens for share in shares),
            "cost_usd": total,
            "usd_per_row": total / rows if rows else None,
            "spent_usd": spent,
            "budget_usd": budget,
            "shares": [vars(share) for share in shares],
        }
        notes = [*(share.sentence for share in shares), *_advice(total, budget - spent, shares), *notes, "Nothing was sent but questions."]
        return Summary("generate --dry-run", len(cells), rows, counts, notes)


def _advice(total: float, left: float, shares: Sequence[Share]) -> list[str]:
    fits = "which is enough" if total <= left else "so the run may stop there, clean, with what it has; raise budget.usd to let it go on"
    notes = [f"The budget has ${max(left, 0):,.2f} left, {fits}."]
    return [*notes, BATCH_TIME] if any(share.in_batch for share in shares) else notes


def _shares(bench: Bench, missing: Sequence[Cell]) -> Iterator[Share]:
    project, seeds = bench.project, load_seeds(bench.folder)
    teacher = project.models.teacher
    writers = (teacher, *project.models.writers)
    for place, requests in sorted(generation.planned_requests(missing, project=project, seeds=seeds).items()):
        yield _share(bench, "generate", requests, writers[place])
    judges = scoring.judges_of(project) if decide_panel(bench).used else (project.models.judge,)
    for judge in judges:
        present, planned = list(judge_requests(bench, judge)), list(_judgments_of(missing, bench, judge))
        yield _share(bench, "score", present, judge)
        # The answer to be judged is not written yet; it has at most as many tokens as the teacher may write.
        yield _share(bench, "score of what is planned", planned, judge, more_tokens=teacher.max_tokens)


def _judgments_of(cells: Iterable[Cell], bench: Bench, judge: ModelSpec) -> Iterator[Request]:
    """What the judge will be asked about cells that have no record yet, but for the words of the example."""
    example, rival = make_instruction("-", "-"), make_instruction("-", "+")
    pair, _ = make_pair(example.prompt, "-", "+")
    for cell in cells:
        rivals = [example] if cell.kind == "instruction" else [example, rival]
        items = [scoring.Scorable(f"{cell.id}/{n}", record, cell.reference, cell.attributes) for n, record in enumerate(rivals)]
        yield from scoring.requests_for(items, project=bench.project, judge=judge)
        if cell.kind == "preference":
            yield from scoring.pair_requests_for([(cell.id, pair, cell.reference)], project=bench.project, judge=judge)


def _share(bench: Bench, stage: str, requests: Sequence[Request], spec: ModelSpec, *, more_tokens: int = 0) -> Share:
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
    return Share(stage, spec.model, spec.provider, len(requests), prompt, output, how, usd, likely, bound.price_date, spec.batch)


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
