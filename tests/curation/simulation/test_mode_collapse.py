"""The law of mode collapse in the responses of the mock provider."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

from curation.generate import GenerationInput, build_requests, naive_requests, shorten
from curation.plan.grid import make_plan
from curation.simulation import mode_collapse
from curation.simulation.defects import RATES
from curation.simulation.provider import MockProvider
from tests.support.icd_samples import project


def bare_body(brief: str) -> dict[str, Any]:
    p = project(grounded=False, brief=brief)
    return next(iter(naive_requests(p, 1))).body


def ideas(provider: MockProvider, body: dict[str, Any], count: int) -> Counter[str]:
    """Count the ideas in the responses to one body sent many times; refusals and truncated responses are left out."""
    texts = []
    for nth in range(count):
        message = provider.respond(body, nth=nth).message
        if message["stop_reason"] == "end_turn":
            texts.append(json.loads(message["content"][0]["text"])["examples"][0]["instruction"])
    return Counter(texts)


def test_the_same_prompt_repeated_is_answered_by_the_law_whatever_it_says() -> None:
    provider = MockProvider.load(None, seed=7, rates=dict.fromkeys(RATES, 0.0))
    for brief in ("Help hobby gardeners with soil, compost and vegetables.", "Explain train timetables, tickets and delays to visitors."):
        seen = [n for _, n in ideas(provider, bare_body(brief), 2000).most_common()]
        assert len(seen) <= mode_collapse.MODES
        for rank in (0, 1, 2):
            assert abs(seen[rank] / 2000 - mode_collapse.SHARES[rank]) < 0.03
        assert abs(sum(seen[:5]) / 2000 - sum(mode_collapse.SHARES[:5])) < 0.03


def test_under_the_law_a_number_changes_nothing_and_what_is_taken_is_mostly_kept_away_from() -> None:
    provider = MockProvider.load(None, seed=7, rates=dict.fromkeys(RATES, 0.0), collapses=True)
    p = project(grounded=False, instruction=300, preference=0)
    cells = {c.id: c for c in make_plan(p, table=None, protected_texts=())}
    same = next(iter(cells.values())).attributes
    cells = {id_: cell.model_copy(update={"attributes": same}) for id_, cell in cells.items()}

    def texts(taken: tuple[str, ...]) -> list[str]:
        asks = [GenerationInput(slot=id_, taken=taken) for id_ in cells]
        bodies = [r.body for r in build_requests(asks, cells, project=p, seeds=[])]
        return [json.loads(provider.respond(body).message["content"][0]["text"])["examples"][0]["instruction"] for body in bodies]

    free = Counter(texts(()))
    assert len(free) <= mode_collapse.MODES and 0.25 < free.most_common(1)[0][1] / 300 < 0.45
    common = [text for text, _ in free.most_common(3)]
    shunned = Counter(texts(tuple(map(shorten, common))))
    assert sum(shunned[text] for text in common) < 0.35 * sum(free[text] for text in common)
