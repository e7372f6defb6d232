"""How many tokens requests are, by the provider's own count where it has one; nothing is billed for it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from curation.errors import UserError
from curation.models import replies
from curation.models.client import STAND_IN, ChatModel, NoReply
from curation.models.opening import open_model
from curation.project import ModelSpec

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
        told = replies.as_object(reply.raw).get("input_tokens")
        return told if reply.status == 200 and isinstance(told, int) else replies.describe_failure(reply)[0]

    try:
        counts = await asyncio.gather(*(count(body) for body in bodies))
    finally:
        await model.close()
    found = [count for count in counts if isinstance(count, int)]
    return found if len(found) == len(counts) else f"the provider did not count ({next(c for c in counts if isinstance(c, str))})"
