"""Look at a model before money is spent on it: reachable, known under this name, not retired, its limits, whether it takes batches."""

from __future__ import annotations

import asyncio
import difflib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import orjson

from curation.config.project import Models, ModelSpec
from curation.errors import ModelUnavailable
from curation.models import responses
from curation.models.base import ChatModel, NoReply, Reply
from curation.models.factory import open_model
from curation.models.pricing import family, find_rates

_TRIES = 3
_ANSWER_S = 20.0


class NotReached(ModelUnavailable):
    """The provider could not be asked; of the model nothing is known."""


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
    takes_batches: bool | None
    """Whether it can be asked in batches; None where the address does not say."""

    @property
    def warning(self) -> str | None:
        """What a person should know before building on it."""
        if self.retires is not None:
            return f"{self.model} is {self.lifecycle} and will be retired on {self.retires}"
        return f"{self.model} is deprecated: it has no long future" if self.lifecycle == "deprecated" else None


def check_model(spec: ModelSpec, *, environ: Mapping[str, str], base_url: str | None = None, folder: Path | None = None) -> ModelInfo:
    """Ask the provider about a model; nothing is billed.

    Raises:
        ProjectError: it has no price.
        NotReached: the network or the provider is away.
        ModelUnavailable: no key, refused, unknown, retired, no batches, or `max_tokens` above what it can write.
    """
    find_rates(spec)
    model = open_model(spec, environ=environ, base_url=base_url, folder=folder, timeout_s=_ANSWER_S)
    if spec.provider == "transformers":
        return _read_folder(spec, Path(model.address))
    if spec.provider == "openai":
        return _read_list(asyncio.run(_fetch_all(model, ["/models"], spec=spec))[0], spec=spec, address=model.address)
    paths = [f"/v1/models/{quote(spec.model, safe='')}", "/v1/models?limit=1000"]
    one, known = asyncio.run(_fetch_all(model, paths, spec=spec, enough=lambda reply: reply.status != 404))
    return _read_info(one, _ids(known), spec=spec, address=model.address)


def same_family(models: Models) -> str | None:
    """A warning where a judge would score its own family's writing, which it is known to favour."""
    written = {family(spec.model) for spec in (models.teacher, *models.writers)}
    both = sorted(written & {family(spec.model) for spec in (models.judge, *models.panel)})
    if not both:
        return None
    pair = not models.writers and not models.panel
    who = f"teacher and judge are both of the {both[0]} family" if pair else f"teachers and judges share the {' and '.join(both)} family"
    return f"{who}; judges favour their own family's writing, so read the scores with care"


async def _fetch_all(
    model: ChatModel, paths: Sequence[str], *, spec: ModelSpec, enough: Callable[[Reply], bool] = lambda reply: False
) -> list[Reply]:
    """The replies of each path in turn; empty ones after the first that is enough."""
    found = list[Reply]()
    try:
        for path in paths:
            found.append(await _fetch(model, path, spec=spec))
            if enough(found[-1]):
                break
    finally:
        await model.close()
    return found + [Reply(404, b"")] * (len(paths) - len(found))


async def _fetch(model: ChatModel, path: str, *, spec: ModelSpec) -> Reply:
    for left in reversed(range(_TRIES)):
        try:
            reply = await model.request("GET", path)
        except NoReply as error:
            if left == 0 or error.reason == "unreachable":
                told = responses.describe_unreachable(error, spec=spec, address=model.address)
                raise NotReached(told.what, told.fact, told.next_step) from error
        else:
            if left == 0 or not responses.is_retried(reply.status):
                return reply
            await asyncio.sleep(min(responses.retry_after(reply.headers) or 0.5, 5.0))
    raise AssertionError("the last try returns or raises")


def _ids(reply: Reply) -> list[str]:
    """The names in a list of models; none where there is no list."""
    listed = responses.as_object(reply.raw).get("data") if reply.status == 200 else None
    return [str(entry["id"]) for entry in listed or () if isinstance(entry, dict) and "id" in entry]


def _unknown(spec: ModelSpec, address: str, known: Sequence[str]) -> ModelUnavailable:
    lower = {name.lower(): name for name in known}
    close = difflib.get_close_matches(spec.model.lower(), lower, n=1)
    hint = f"did you mean {lower[close[0]]}?" if close else f"it knows {', '.join(known[:8])}"
    fact = f"is not known at {address}" + (f"; {hint}" if known else "")
    return ModelUnavailable(f"model {spec.model}", fact, "mend the model's name in project.yaml and run again")


def _read_folder(spec: ModelSpec, folder: Path) -> ModelInfo:
    if not (folder / "config.json").is_file():
        raise ModelUnavailable(f"model {folder}", "is no folder with a model (no config.json)", "name the model's folder in project.yaml")
    room = orjson.loads((folder / "config.json").read_bytes()).get("max_position_embeddings")
    return ModelInfo(spec.model, str(folder), folder.name, "local", None, room, room, False)


def _read_list(reply: Reply, *, spec: ModelSpec, address: str) -> ModelInfo:
    """What an OpenAI-compatible server tells: names, and vLLM the context too."""
    _raise_for(reply, spec=spec, address=address)
    known = _ids(reply)
    if known and spec.model not in known and f"{spec.model}:latest" not in known:  # Ollama lists a tag that need not be said
        raise _unknown(spec, address, known)
    entry = next((e for e in responses.as_object(reply.raw).get("data") or () if isinstance(e, dict) and e.get("id") == spec.model), {})
    return ModelInfo(spec.model, address, spec.model, "unknown", None, entry.get("max_model_len"), None, False)


def _raise_for(reply: Reply, *, spec: ModelSpec, address: str) -> None:
    """For a reply that is neither a description nor the silence of a server that describes no models."""
    if reply.status == 200 or reply.status in (404, 405, 501):
        return
    if (error := responses.ends_the_run(reply, spec=spec, address=address)) is not None:
        raise error
    said = " ".join(responses.describe_failure(reply))
    raise NotReached(f"model {spec.model}", f"cannot be looked at at {address} ({said})", "run the same command again later")


def _read_info(reply: Reply, known: Sequence[str], *, spec: ModelSpec, address: str) -> ModelInfo:
    _raise_for(reply, spec=spec, address=address)
    if reply.status != 200:
        if responses.describe_failure(reply)[1].startswith("not_found_error"):
            raise _unknown(spec, address, known)
        return ModelInfo(spec.model, address, spec.model, "unknown", None, None, None, None)
    info = responses.as_object(reply.raw)
    retires = str(info["retires_at"])[:10] if info.get("retires_at") else None
    if info.get("lifecycle") == "retired":
        raise ModelUnavailable(f"model {spec.model}", f"was retired on {retires or 'an unknown day'}", "name another model in project.yaml")
    most = info.get("max_tokens")
    if isinstance(most, int) and spec.max_tokens > most:
        what, fact = f"model {spec.model}: max_tokens", f"is {spec.max_tokens}; the model writes at most {most}"
        raise ModelUnavailable(what, fact, "lower max_tokens in project.yaml and run again")
    name, lifecycle = str(info.get("display_name") or spec.model), str(info.get("lifecycle") or "unknown")
    able = info.get("capabilities")
    batch = able.get("batch") if isinstance(able, dict) else None
    takes = batch.get("supported") if isinstance(batch, dict) else batch
    if takes is False and spec.batch:
        raise ModelUnavailable(f"model {spec.model}", "takes no batches", "take `batch: true` out of project.yaml, or name another model")
    return ModelInfo(spec.model, address, name, lifecycle, retires, info.get("max_input_tokens"), most, takes)
