"""Look at a model before money is spent on it: reachable, known under this name, not retired, and its limits."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import quote

from curation.errors import ModelUnavailable
from curation.models import replies
from curation.models.client import ChatModel, NoReply, Reply, open_model
from curation.models.prices import family, find_rates
from curation.project import Models, ModelSpec

_TRIES = 3
_ANSWER_S = 20.0


@dataclass(frozen=True)
class ModelInfo:
    """What the provider says of a model."""

    model: str
    address: str
    display_name: str
    lifecycle: str
    """ "active", "deprecated", or "unknown" where the address does not describe its models."""
    retires: str | None
    """The day (YYYY-MM-DD) of its scheduled end of life."""
    max_input_tokens: int | None
    max_tokens: int | None

    @property
    def warning(self) -> str | None:
        """What a person should know before building on it."""
        if self.retires is not None:
            return f"{self.model} is {self.lifecycle} and will be retired on {self.retires}"
        return f"{self.model} is deprecated: it has no long future" if self.lifecycle == "deprecated" else None


def check_model(spec: ModelSpec, *, environ: Mapping[str, str], base_url: str | None = None) -> ModelInfo:
    """Ask the provider about a model; nothing is billed.

    Raises:
        ProjectError: it has no price.
        ModelUnavailable: no key, refused, unreachable, unknown, retired, or `max_tokens` above what it can write.
    """
    find_rates(spec)
    model = open_model(spec, environ=environ, base_url=base_url, timeout_s=_ANSWER_S)
    reply = asyncio.run(_fetch(model, f"/v1/models/{quote(spec.model, safe='')}", spec=spec))
    return _read_info(reply, spec=spec, address=model.address)


def same_family(models: Models) -> str | None:
    """A warning where the judge would score its own family's writing, which it is known to favour."""
    teacher, judge = family(models.teacher.model), family(models.judge.model)
    if teacher != judge:
        return None
    return f"teacher and judge are both of the {judge} family; judges favour their own family's writing, so read the scores with care"


async def _fetch(model: ChatModel, path: str, *, spec: ModelSpec) -> Reply:
    try:
        for left in reversed(range(_TRIES)):
            try:
                reply = await model.request("GET", path)
            except NoReply as error:
                if left == 0 or error.reason == "unreachable":
                    raise replies.describe_unreachable(error, spec=spec, address=model.address) from error
            else:
                if left == 0 or not replies.is_retried(reply.status):
                    return reply
                await asyncio.sleep(min(replies.retry_after(reply.headers) or 0.5, 5.0))
        raise AssertionError("the last try returns or raises")
    finally:
        await model.close()


def _read_info(reply: Reply, *, spec: ModelSpec, address: str) -> ModelInfo:
    if reply.status != 200:
        error = replies.ends_the_run(reply, spec=spec, address=address)
        is_silent = reply.status in (404, 405, 501) and not replies.describe_failure(reply)[1].startswith("not_found_error")
        if error is not None and not is_silent:
            raise error
        if not is_silent:
            said = " ".join(replies.describe_failure(reply))
            raise ModelUnavailable(f"model {spec.model}", f"cannot be looked at at {address} ({said})", "run the same command again later")
        return ModelInfo(spec.model, address, spec.model, "unknown", None, None, None)
    info = replies.as_object(reply.raw)
    retires = str(info["retires_at"])[:10] if info.get("retires_at") else None
    if info.get("lifecycle") == "retired":
        raise ModelUnavailable(f"model {spec.model}", f"was retired on {retires or 'an unknown day'}", "name another model in project.yaml")
    most = info.get("max_tokens")
    if isinstance(most, int) and spec.max_tokens > most:
        what, fact = f"model {spec.model}: max_tokens", f"is {spec.max_tokens}; the model writes at most {most}"
        raise ModelUnavailable(what, fact, "lower max_tokens in project.yaml and run again")
    name, lifecycle = str(info.get("display_name") or spec.model), str(info.get("lifecycle") or "unknown")
    return ModelInfo(spec.model, address, name, lifecycle, retires, info.get("max_input_tokens"), most)
