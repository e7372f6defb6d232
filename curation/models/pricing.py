"""What a call may cost before it is sent, and what it did cost after. Prices stand in a dated file with its source.

Money is whole nano-dollars, rounded up. The bound before a call is one that cannot be passed: a token is at least one byte.
"""

from __future__ import annotations

import asyncio
import functools
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import orjson
import yaml

from curation.config.project import ModelSpec
from curation.errors import ProjectError, UserError
from curation.models import responses
from curation.models.base import STAND_IN, ChatModel, NoReply
from curation.models.factory import open_model
from curation.requests import Request

_PATH = "/v1/messages/count_tokens"

_COUNTED = ("model", "messages", "system", "output_config", "thinking", "tools", "tool_choice")

_ANSWER_S = 20.0


def count_tokens(
    bodies: Sequence[dict[str, Any]],
    spec: ModelSpec,
    *,
    environ: Mapping[str, str],
    base_url: str | None = None,
    folder: Path | None = None,
) -> list[int] | str:
    """Prompt tokens of each request as the provider counts them; a few words where it cannot count, or not now."""
    if spec.provider not in ("anthropic", STAND_IN):
        return f"{spec.provider} has no count"
    try:
        model = open_model(spec, environ=environ, base_url=base_url, folder=folder, timeout_s=_ANSWER_S)
        return asyncio.run(_count_all(model, bodies, spec.concurrency))
    except NoReply as error:
        return f"the provider was not reached ({error.reason})"
    except UserError as error:
        return f"{error.what} {error.fact}"


async def _count_all(model: ChatModel, bodies: Sequence[dict[str, Any]], concurrency: int) -> list[int] | str:
    slots = asyncio.Semaphore(concurrency)

    async def count(body: dict[str, Any]) -> int | str:
        async with slots:
            reply = await model.request("POST", _PATH, {name: body[name] for name in _COUNTED if name in body})
        told = responses.as_object(reply.raw).get("input_tokens")
        return told if reply.status == 200 and isinstance(told, int) else responses.describe_failure(reply)[0]

    try:
        counts = await asyncio.gather(*(count(body) for body in bodies))
    finally:
        await model.close()
    found = [count for count in counts if isinstance(count, int)]
    return found if len(found) == len(counts) else f"the provider did not count ({next(c for c in counts if isinstance(c, str))})"


NANO = 1_000_000_000

_PROMPT_OVERHEAD = 600
"""Tokens a provider may add around a prompt (roles, the note about a JSON schema)."""

_FAMILIES = {"o1": "gpt", "o3": "gpt", "o4": "gpt", "chatgpt": "gpt", "mixtral": "mistral", "ministral": "mistral", "qwq": "qwen"}


@dataclass(frozen=True)
class Rates:
    """The price of one model, US dollars per million tokens."""

    input: float
    output: float
    cache_write_5m: float
    cache_write_1h: float
    cache_read: float
    batch: float
    """Share of the price that a call in a batch costs."""
    up_to_prompt_tokens: int | None
    """The list price holds for prompts up to this long."""
    date: str
    """Day of the price list, or "project.yaml"."""


@dataclass(frozen=True)
class Estimate:
    """The most that requests to one model can come to."""

    model: str
    calls: int
    prompt_tokens: int
    """At most; a real tokenizer counts about a quarter of it for English."""
    output_tokens: int
    cost_usd: float
    price_date: str
    in_batch: bool


def find_rates(spec: ModelSpec) -> Rates:
    """The price of a model: the project's own where it states one, else the list's.

    Raises:
        ProjectError: the model has no price, so no budget could hold.
    """
    if spec.provider == "transformers":
        return Rates(0.0, 0.0, 0.0, 0.0, 0.0, batch=1.0, up_to_prompt_tokens=None, date="no price")
    listed = _price_list()["openai" if spec.provider == "openai" else "anthropic"]
    # A server that only speaks like OpenAI has prices of its own, whatever its models are called.
    known = {} if spec.provider == "openai" and spec.base_url else listed["models"]
    entry, date = known.get(spec.model) or known.get(re.sub(r"-20\d{6}$|-20\d\d-\d\d-\d\d$", "", spec.model)), str(listed["date"])
    if spec.price is not None:
        entry, date = {"input": spec.price.input, "output": spec.price.output}, "project.yaml"
    if entry is None:
        fact = f"has no price in the list of {date}" + (f" (it knows {', '.join(sorted(known))})" if known else f" for {spec.base_url}")
        zero = ", or {input: 0, output: 0} for a server of your own" if spec.provider == "openai" else ""
        raise ProjectError(f"model {spec.model}", fact, f"state it in project.yaml under the model: price: {{input: 2, output: 10}}{zero}")
    cached = {name: entry["input"] * entry.get(name, listed[name]) for name in ("cache_write_5m", "cache_write_1h", "cache_read")}
    limit = entry.get("up_to_prompt_tokens")
    return Rates(entry["input"], entry["output"], **cached, batch=listed["batch"], up_to_prompt_tokens=limit, date=date)


def bound_nano(request: Request, rates: Rates, *, in_batch: bool = False) -> int:
    """The most a request can cost: every byte of it a token, and `max_tokens` written."""
    prompt, output = bound_tokens(request)
    body = orjson.dumps(request.body)
    written = rates.cache_write_1h if b'"1h"' in body else rates.cache_write_5m if b'"cache_control"' in body else rates.input
    return _nano(prompt * max(written, rates.input) + output * rates.output, rates.batch if in_batch else 1)


def bound_tokens(request: Request) -> tuple[int, int]:
    """(prompt, output): numbers of tokens that cannot be passed."""
    return len(orjson.dumps(request.body)) + _PROMPT_OVERHEAD, int(request.body["max_tokens"])


def is_priced(request: Request, rates: Rates) -> bool:
    """Whether the list price holds for a prompt of this length, judged at two bytes a token."""
    return rates.up_to_prompt_tokens is None or bound_tokens(request)[0] / 2 <= rates.up_to_prompt_tokens


def cost_nano(tokens: Mapping[str, int], rates: Rates, *, in_batch: bool = False) -> int:
    """What a call cost by its usage: input, output (thinking is part of it), cache writes of both kinds, cache reads."""
    dollars = (
        tokens.get("input_tokens", 0) * rates.input
        + tokens.get("output_tokens", 0) * rates.output
        + (tokens.get("cache_write_tokens", 0) - tokens.get("cache_write_1h_tokens", 0)) * rates.cache_write_5m
        + tokens.get("cache_write_1h_tokens", 0) * rates.cache_write_1h
        + tokens.get("cache_read_tokens", 0) * rates.cache_read
    )
    return _nano(dollars, rates.batch if in_batch else 1)


def estimate_cost(requests: Iterable[Request], spec: ModelSpec, *, in_batch: bool = False) -> Estimate:
    """The most that asking all of them can cost; for `--dry-run`."""
    rates = find_rates(spec)
    calls = prompt = output = nano = 0
    for request in requests:
        tokens = bound_tokens(request)
        calls, prompt, output = calls + 1, prompt + tokens[0], output + tokens[1]
        nano += bound_nano(request, rates, in_batch=in_batch)
    return Estimate(spec.model, calls, prompt, output, nano / NANO, rates.date, in_batch)


def usd_of(prompt_tokens: int, output_tokens: int, spec: ModelSpec, *, in_batch: bool = False) -> float:
    """What so many tokens cost, nothing cached."""
    rates = find_rates(spec)
    return _nano(prompt_tokens * rates.input + output_tokens * rates.output, rates.batch if in_batch else 1) / NANO


def family(model: str) -> str:
    """Who a model descends from ("claude", "gpt", "llama"): a judge favours the writing of its own family."""
    name = model.lower().rpartition("/")[2]
    first = re.split(r"[-_.:]", name)[0]
    return _FAMILIES.get(first) or re.sub(r"\d+$", "", first) or first


@functools.cache
def _price_list() -> dict[str, Any]:
    text = (files("curation.models") / "prices.yaml").read_text(encoding="utf-8")
    listed: dict[str, Any] = yaml.safe_load(text)
    return listed


def _nano(dollars_per_million: float, share: float) -> int:
    # Prices have few decimals; rounding to 1e-6 first takes away what binary fractions add before the ceiling.
    return math.ceil(round(dollars_per_million * share * 1000, 6))
