"""Responses that are on disk are read, and their price is written beside them; now, or by whoever comes after a process that died."""

from __future__ import annotations

from curation.config.project import ModelSpec
from curation.errors import ProjectError
from curation.models import responses
from curation.models.ledger import Ledger
from curation.models.pricing import cost_nano, find_rates


def settle_kept(ledger: Ledger, spec: ModelSpec) -> None:
    """Read a model's responses that a process kept and did not live to read. Without a price they cost what was held for them."""
    try:
        rates = find_rates(spec)
    except ProjectError:
        rates = None
    while left := ledger.unsettled(spec.model):
        with ledger.transaction():
            for seq, raw, in_batch in left:
                reading = responses.read_message(raw)
                cost = cost_nano(reading.tokens, rates, in_batch=in_batch) if rates and reading.tokens is not None else None
                reading, cost = check_usage(reading, cost, held=ledger.held_nano(seq))
                settle(ledger, seq, reading, cost, price_date=rates.date if rates else "no price")


MOST_OVER_HELD = 20
"""A response whose usage costs more than this multiple of the most the call may cost has a wrong usage: the budget does not follow it."""


def check_usage(reading: responses.Reading, cost: int | None, *, held: int) -> tuple[responses.Reading, int | None]:
    """Return a reading and its cost, or a failure at the price that was held where its usage cannot be right.

    Args:
        reading: of a kept response.
        cost: by its usage, in nano-dollars; None where it has none.
        held: the most the call may cost, in nano-dollars; 0 where nothing was held.
    """
    if cost is None or not held or cost <= MOST_OVER_HELD * held:
        return reading, cost
    fact = f"its usage would cost {cost / 1e9:,.2f} USD, and the request may cost {held / 1e9:.6f} at most"
    return responses.Reading(None, stop_reason=reading.stop_reason, failure=("odd_usage", fact)), None


def settle(ledger: Ledger, seq: int, reading: responses.Reading, cost: int | None, *, price_date: str) -> None:
    """Write what reading a kept response told; None is a cost that is not known."""
    ledger.settle(
        seq,
        cost_nano=cost,
        tokens=reading.tokens or {},
        price_date=price_date,
        stop_reason=reading.stop_reason,
        refusal=reading.refusal,
        failure=reading.failure,
    )
