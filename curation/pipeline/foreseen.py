"""What will be asked about rows that are not written yet, or may fall: the requests but for their words, for the estimate of their cost."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence

import orjson

from curation import score as scoring
from curation.leakage.judge import STAGE, Doubt, kind_of, leak_digest, requests_for
from curation.pipeline.asking import is_simulated
from curation.pipeline.bench import Bench, load_protected
from curation.pipeline.refilling import Standing
from curation.plan import Cell
from curation.project import ModelSpec
from curation.records import KINDS, make_instruction, make_pair
from curation.requests import Request
from curation.store import CallLedger, records, runs


def judgments_of(cells: Sequence[Cell], bench: Bench, judge: ModelSpec) -> Iterator[Request]:
    """What a judge will be asked about cells that have no record yet: each answer, some of them twice, and each pair in both orders."""
    project = bench.project
    example, (pair, _) = make_instruction("-", "-"), make_pair(make_instruction("-", "-").prompt, "-", "+")
    items = list[scoring.Scorable]()
    for cell in cells:
        answers = 1 if cell.kind == "instruction" else project.plan.candidates or 2
        items += [scoring.Scorable(f"{cell.id}/{n}", example, cell.reference, cell.attributes) for n in range(answers)]
    yield from scoring.requests_for(items, project=project, judge=judge)
    yield from scoring.requests_for(items[: project.score.repeat], project=project, judge=judge, again=True)
    pairs = [(cell.id, pair, cell.reference) for cell in cells if cell.kind == "preference"]
    yield from scoring.pair_requests_for(pairs, project=project, judge=judge)


def doubts_of_rows(bench: Bench) -> list[Request]:
    """What the leak judge may be asked about the rows there are: all of them, but for those it has answered on."""
    judge = bench.project.models.leaks
    answers = CallLedger(bench.db).answers(STAGE, simulated=is_simulated(judge)) if bench.project.screen.judge else ()
    asked = {tuple(answer.request.slot.split(":", 2)[:2]) for answer in answers}
    rows = (row for kind in KINDS for row in records.list_rows(bench.db, kind))
    return _doubts(bench, ((row.id, row.prompt) for row in rows if (row.id, leak_digest(judge)) not in asked))


def doubts_of(cells: Iterable[Cell], bench: Bench) -> list[Request]:
    """What it may be asked about cells that have no record yet."""
    return _doubts(bench, ((cell.id.replace(":", "-"), "-") for cell in cells))


def refills(missing: Sequence[Cell], now: Standing, *, rounds: int) -> dict[tuple[int, bool], list[Cell]]:
    """By how often they may be asked again, and whether their row has fallen already: the cells to write, and those that stand empty."""
    found = defaultdict[tuple[int, bool], list[Cell]](list)
    to_write = {cell.id for cell in missing}
    for cell in [*missing, *(cell for cell in now.short(rounds) if cell.id not in to_write)]:
        times = rounds + 1 - max(now.attempts.get(cell.id, 0), 1)
        if times > 0:
            found[times, cell.id not in to_write].append(cell)
    return found


def fallen_share(bench: Bench, now: Standing, *, at_least: int) -> float | None:
    """How many of the written rows have fallen; None where there are too few to tell."""
    written = [row.seq for kind in KINDS for row in records.list_rows(bench.db, kind) if row.cell is not None]
    return sum(seq in now.fallen for seq in written) / len(written) if len(written) >= at_least else None


def doubtful_share(bench: Bench, *, at_least: int) -> float | None:
    """How many of the rows the last screen was not sure of."""
    run = runs.latest_run(bench.db, "screen")
    return json.loads(run["detail"]).get("doubtful", 0) / run["rows_in"] if run is not None and run["rows_in"] >= at_least else None


def _doubts(bench: Bench, rows: Iterable[tuple[str, str]]) -> list[Request]:
    """One request for each row, with the protected item that makes the longest."""
    if not bench.project.screen.judge:
        return []
    longest: dict[str, Doubt] = {}
    for items in load_protected(bench):
        for text in items.texts:
            doubt = Doubt("", f"{items.name}:0", "", text, items.suite.label is not None)
            if len(text) > len(longest.setdefault(kind_of(doubt), doubt).item_text):
                longest[kind_of(doubt)] = doubt
    if not longest:
        return []
    judge = bench.project.models.leaks
    asked = list(requests_for(longest.values(), judge=judge))
    item = max(zip(longest.values(), asked, strict=True), key=lambda pair: len(orjson.dumps(pair[1].body)))[0]
    return list(requests_for((Doubt(row, item.item, text, item.item_text, item.has_label) for row, text in rows), judge=judge))
