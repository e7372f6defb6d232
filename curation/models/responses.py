"""What a response means: an answer with its usage, a failure of the call, a reason to try again, or the end of the run.

Successes are read only after they are on disk.
"""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, NamedTuple

import orjson

from curation.config.project import ModelSpec
from curation.errors import ModelUnavailable
from curation.message_format import message_of
from curation.models.base import STAND_IN, NoReply, Reply, is_foreign, key_name

THROTTLED = frozenset({429, 529})
_RETRIED = frozenset({408, 409, 425, 429})
_ENDS_THE_RUN = frozenset({401, 402, 403, 404})
_LONGEST_WAIT_S = 300.0
_LONGEST_WORD = 100
"""Characters of a stop reason or a category that are kept."""
_MOST_TOKENS = 20_000_000
"""No model reads or writes so many tokens in one call (Llama 4 Scout, the longest of 2026, has a context of 10 million)."""
_STATUS_OF = {
    "invalid_request_error": 400,
    "authentication_error": 401,
    "billing_error": 402,
    "permission_error": 403,
    "not_found_error": 404,
    "request_too_large": 413,
    "rate_limit_error": 429,
    "overloaded_error": 529,
}
"""Batches name an error's type only."""


@dataclass(frozen=True)
class Reading:
    """A kept response, read."""

    tokens: dict[str, int] | None
    """Usage by our names, or None when it could not be read."""
    stop_reason: str | None = None
    refusal: str | None = None
    failure: tuple[str, str] | None = None
    """(reason, detail) when it is no usable message."""
    message: dict[str, Any] | None = None
    """The message, where it is one."""


def read_message(raw: bytes) -> Reading:
    """Read a response of status 200, whatever bytes it is. A refusal is an answer, with its category; a body that is no message is a
    failure.

    A response without a readable usage is charged what was held for the call.
    """
    try:
        message = message_of(raw)
    except orjson.JSONDecodeError as error:
        return Reading(None, failure=("not_json", f"{error}; {len(raw)} bytes are kept"))
    usage = message.get("usage") if isinstance(message, dict) else None
    tokens = _tokens(usage) if isinstance(usage, dict) else None
    is_told = tokens is not None or (isinstance(message, dict) and "usage" not in message)
    if not is_told or message.get("type") != "message" or not _is_content(message.get("content")):
        return Reading(tokens, failure=("not_message", f"the body is JSON but no message: {raw[:200].decode(errors='replace')}"))
    stop, details = message.get("stop_reason"), message.get("stop_details")
    if stop is not None and not isinstance(stop, str):
        return Reading(tokens, failure=("not_message", f"stop_reason is no text: {raw[:200].decode(errors='replace')}"))
    category = details.get("category") if isinstance(details, dict) else None
    refusal = str(category or "unnamed")[:_LONGEST_WORD] if stop == "refusal" else None
    return Reading(tokens, stop_reason=stop and stop[:_LONGEST_WORD], refusal=refusal, message=message)


class BatchLine(NamedTuple):
    """One line of a batch's results: the message where the request succeeded, else why not."""

    key: str
    raw: bytes | None
    status: int | None
    reason: str
    detail: str

    @property
    def is_resubmitted(self) -> bool:
        """Expired, or an error that may pass; a canceled request is not asked again, nor one that was refused as malformed."""
        return self.raw is None and (self.reason == "expired" or (self.status is not None and is_retried(self.status)))


def read_batch_line(line: bytes) -> BatchLine | None:
    """Read one line of results; None for one that was cut or is of another kind."""
    try:
        value = orjson.loads(line)
        key, result = value["custom_id"], value["result"]
        if not isinstance(key, str):
            return None
        if result["type"] == "succeeded":
            return BatchLine(key, orjson.dumps(result["message"]), 200, "", "")
        if result["type"] == "errored":
            kind, text = _error_of(orjson.dumps(result["error"]))
            status = _STATUS_OF.get(kind, 500)
            return BatchLine(key, None, status, f"http_{status}", f"{kind}: {text}")
        return BatchLine(key, None, None, str(result["type"]), "in the batch")
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return None


def is_retried(status: int) -> bool:
    """Whether the same request may succeed later."""
    return status in _RETRIED or status >= 500


def describe_failure(reply: Reply) -> tuple[str, str]:
    """(reason, detail) of an error response: "http_400" and the provider's words."""
    kind, text = _error_of(reply.raw)
    reason = "refused_by_filter" if reply.status == 400 and kind == "content_filter" else f"http_{reply.status}"
    return reason, f"{kind}: {text}" if kind else text


def retry_after(headers: Mapping[str, str], *, now: datetime | None = None) -> float | None:
    """Seconds the provider asks to wait, at most five minutes; a proxy on the way may name the moment instead."""
    for name, scale in (("retry-after-ms", 1000.0), ("retry-after", 1.0)):
        with contextlib.suppress(ValueError):
            if math.isfinite(seconds := float(headers.get(name, "nan")) / scale):
                return min(max(seconds, 0.0), _LONGEST_WAIT_S)
    with contextlib.suppress(ValueError, TypeError, OverflowError):
        moment = parsedate_to_datetime(headers.get("retry-after", ""))
        return min(max((moment - (now or datetime.now(UTC))).total_seconds(), 0.0), _LONGEST_WAIT_S)
    return None


def tokens_left(headers: Mapping[str, str], *, now: datetime | None = None) -> tuple[float, float] | None:
    """(smallest share left of any rate limit, seconds until that one is full again), or None without such headers."""
    found = []
    if not any(name.startswith(("anthropic-ratelimit-", "x-ratelimit-")) for name in headers):
        return None
    for kind in ("requests", "input-tokens", "output-tokens", "tokens"):
        with contextlib.suppress(ValueError, KeyError, ZeroDivisionError, TypeError, OverflowError):
            prefix = f"anthropic-ratelimit-{kind}"
            share = float(headers[f"{prefix}-remaining"]) / float(headers[f"{prefix}-limit"])
            reset = datetime.fromisoformat(headers[f"{prefix}-reset"])
            found.append((share, (reset - (now or datetime.now(UTC))).total_seconds()))
        with contextlib.suppress(ValueError, KeyError, ZeroDivisionError, OverflowError):
            share = float(headers[f"x-ratelimit-remaining-{kind}"]) / float(headers[f"x-ratelimit-limit-{kind}"])
            found.append((share, _span_s(headers[f"x-ratelimit-reset-{kind}"])))
    found = [(share, min(max(wait, 0.0), _LONGEST_WAIT_S)) for share, wait in found if not math.isnan(share + wait)]
    return min(found, default=None)


def ends_the_run(reply: Reply, *, spec: ModelSpec, address: str) -> ModelUnavailable | None:
    """The error that ends a run when no call can succeed: the key, the account, the permission or the model's name."""
    kind, text = _error_of(reply.raw)
    key = key_name(spec)
    cannot_pay = "credit balance" in text.lower() or kind in ("billing_error", "insufficient_quota")
    if (reply.status in (400, 429) and cannot_pay) or reply.status == 402:
        fact = f"cannot pay at {address} ({text or kind})"
        return ModelUnavailable(f"the account of {key}", fact, "add credit, then run again; nothing is lost")
    if reply.status not in _ENDS_THE_RUN:
        return None
    said = f"HTTP {reply.status} {kind}: {text}".strip().rstrip(":")
    if spec.provider == STAND_IN and reply.status != 404:
        return ModelUnavailable("the offline stand-in", f"refuses us at {address} ({said})", "start it with: curate simulate start")
    if reply.status == 401 and is_foreign(spec) and spec.key_env is None:
        how = "put its key into an environment variable and name that as key_env in project.yaml"
        return ModelUnavailable(f"model {spec.model}", f"is asked at {address}, which wants a key ({said})", how)
    if reply.status == 401:
        return ModelUnavailable(f"the key in {key}", f"is refused by {address} ({said})", "export a valid key and run again")
    what = f"model {spec.model}"
    if reply.status == 403:
        return ModelUnavailable(what, f"may not be used with this {key} at {address} ({said})", "use another key or another model")
    if kind:
        return ModelUnavailable(what, f"is not known at {address} ({said})", "mend the model's name in project.yaml and run again")
    speaks, mend = ("chat completions", "; it mostly ends in /v1") if spec.provider == "openai" else ("Messages API", "")
    return ModelUnavailable(address, f"has no {speaks} ({said})", f"mend base_url in project.yaml and run again{mend}")


def describe_unreachable(error: NoReply, *, spec: ModelSpec, address: str) -> ModelUnavailable:
    """A plain sentence with the address and what to do."""
    fact = f"cannot be reached at {address} ({error.detail})"
    if spec.provider == STAND_IN:
        return ModelUnavailable("the offline stand-in", fact, "start it with: curate simulate start")
    return ModelUnavailable(f"model {spec.model}", fact, "check the network and base_url in project.yaml, then run again; nothing is lost")


def _span_s(text: str) -> float:
    """Seconds of "6m0s", "1.5s", "20ms"."""
    parts = re.findall(r"([0-9.]+)(ms|s|m|h|d)", text)
    if not parts:
        return float(text)
    scale = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
    return sum(float(number) * scale[unit] for number, unit in parts)


def _tokens(usage: dict[str, Any]) -> dict[str, int] | None:
    created, details = usage.get("cache_creation"), usage.get("output_tokens_details")
    found: dict[str, Any] = {
        "input_tokens": usage.get("input_tokens"),
        "output_tokens": usage.get("output_tokens"),
        "thinking_tokens": (details.get("thinking_tokens") or 0) if isinstance(details, dict) else 0,
        "cache_write_tokens": usage.get("cache_creation_input_tokens") or 0,
        "cache_write_1h_tokens": (created.get("ephemeral_1h_input_tokens") or 0) if isinstance(created, dict) else 0,
        "cache_read_tokens": usage.get("cache_read_input_tokens") or 0,
    }
    return found if all(type(n) is int and 0 <= n <= _MOST_TOKENS for n in found.values()) else None


def _is_content(content: Any) -> bool:
    return isinstance(content, list) and all(
        isinstance(block, dict) and (block.get("type") != "text" or isinstance(block.get("text"), str)) for block in content
    )


def _error_of(raw: bytes) -> tuple[str, str]:
    text = raw[:500].decode(errors="replace").strip()
    try:
        body = orjson.loads(raw)
    except orjson.JSONDecodeError:
        return "", text
    if not isinstance(body, dict):
        return "", text
    error = body.get("error")
    if isinstance(error, str):  # TGI and Ollama
        return str(body.get("error_type") or body.get("type") or ""), error[:500]
    error = error if isinstance(error, dict) else body if isinstance(body.get("message"), str) else None  # the latter is older vLLM
    if error is None:
        return "", text
    code = error.get("code")
    kind = code if isinstance(code, str) and code else error.get("type")  # OpenAI's code is the finer word
    return str(kind or ""), str(error.get("message", ""))[:500]


def as_object(raw: bytes) -> dict[str, Any]:
    """The JSON object in a body; an empty one where there is none."""
    try:
        value = orjson.loads(raw)
    except orjson.JSONDecodeError:
        return {}
    return value if isinstance(value, dict) else {}
