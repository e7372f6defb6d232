"""Settlement: parse a response that is on disk and record its price, at once or in a later run after the process died in between."""

from __future__ import annotations

from curation.config.project import ModelSpec
from curation.errors import ProjectError
from curation.models import responses
from curation.models.ledger import Ledger
from curation.models.pricing import Rates, cost_nano, find_rates

MAX_OVER_HELD = 20
"""A usage that costs more than this multiple of the call's upper bound is wrong: it must not use up the budget."""


def settle_kept(ledger: Ledger, spec: ModelSpec) -> None:
    """Settle a model's responses that an earlier process kept and did not parse. Without a price they cost the reserved amount."""
    try:
        rates = find_rates(spec)
    except ProjectError:
        rates = None
    while left := ledger.unsettled(spec.model):
        with ledger.transaction():
            for seq, raw, in_batch in left:
                reading, cost = price_reading(responses.read_message(raw), rates, held=ledger.held_nano(seq), in_batch=in_batch)
                settle(ledger, seq, reading, cost, price_date=rates.date if rates else "no price")


def price_reading(
    reading: responses.Reading, rates: Rates | None, *, held: int, in_batch: bool = False
) -> tuple[responses.Reading, int | None]:
    """Return a parsed response and its cost; a usage that cannot be right makes it a failure at the reserved amount.

    Args:
        reading: a parsed response.
        rates: price of the model; None where it has none.
        held: upper bound of the call in nano-dollars; 0 where nothing was reserved.
        in_batch: apply the batch discount.

    Returns:
        The reading, and its cost in nano-dollars; None means the reserved amount.
    """
    if rates is None or reading.tokens is None:
        return reading, None
    cost = cost_nano(reading.tokens, rates, in_batch=in_batch)
    if not held or cost <= MAX_OVER_HELD * held:
        return reading, cost
    fact = f"its usage would cost {cost / 1e9:,.2f} USD, and the request may cost {held / 1e9:.6f} at most"
    return responses.Reading(None, stop_reason=reading.stop_reason, failure=("odd_usage", fact)), None


def settle(ledger: Ledger, seq: int, reading: responses.Reading, cost: int | None, *, price_date: str) -> None:
    """Write a parsed response to the ledger.

    Args:
        ledger: where the call is.
        seq: number of the call.
        reading: its parsed response.
        cost: in nano-dollars; None means the reserved amount.
        price_date: date of the price list.
    """
    ledger.settle(
        seq,
        cost_nano=cost,
        tokens=reading.tokens or {},
        price_date=price_date,
        stop_reason=reading.stop_reason,
        refusal=reading.refusal,
        failure=reading.failure,
    )
