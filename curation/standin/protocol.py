"""What the API accepts and what it says when it does not: the checks of a Messages body and the error envelope."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

ERRORS = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    500: "api_error",
    529: "overloaded_error",
}
MODELS = re.compile(r"(claude|offline)-[a-z0-9][a-z0-9.-]*")
"""Names the stand-in answers to; all others are unknown models."""


class Refused(Exception):
    """The API says no, with a status and a sentence."""

    def __init__(self, status: int, message: str) -> None:
        self.status, self.message = status, message
        super().__init__(message)


def error_body(status: int, message: str, request_id: str) -> dict[str, Any]:
    """The error envelope of the API."""
    return {"type": "error", "error": {"type": ERRORS.get(status, "api_error"), "message": message}, "request_id": request_id}


def check_key(headers: Mapping[str, str], expected: str | None) -> None:
    """A key is needed; which one matters only when the server was started with one."""
    given = headers.get("x-api-key") or headers.get("authorization", "").removeprefix("Bearer ")
    if not given:
        raise Refused(401, "x-api-key header is required")
    if given.startswith("wrong") or (expected is not None and given != expected):
        raise Refused(401, "invalid x-api-key")
    if not headers.get("anthropic-version"):
        raise Refused(400, "anthropic-version: header is required")


def check_model(name: Any) -> str:
    """A model the stand-in answers to."""
    if not isinstance(name, str) or not MODELS.fullmatch(name):
        raise Refused(404, f"model: {name}")
    return name


def check_body(body: Any) -> dict[str, Any]:
    """A Messages body as current models take it."""
    if not isinstance(body, dict):
        raise Refused(400, "the body is not an object")
    for name in ("model", "max_tokens", "messages"):
        if name not in body:
            raise Refused(400, f"{name}: Field required")
    for name in ("temperature", "top_p", "top_k"):
        if name in body:
            raise Refused(400, f"{name}: this model does not take sampling parameters")
    if not isinstance(body["max_tokens"], int) or body["max_tokens"] < 1:
        raise Refused(400, "max_tokens: Input should be greater than or equal to 1")
    messages = body["messages"]
    if not isinstance(messages, list) or not messages or not all(isinstance(m, dict) and m.get("content") for m in messages):
        raise Refused(400, "messages: at least one message with content is required")
    if messages[0].get("role") != "user":
        raise Refused(400, "messages: first message must use the user role")
    if messages[-1].get("role") == "assistant":
        raise Refused(400, "messages: this model does not take a prefilled answer; the last message must be the user's")
    check_model(body["model"])
    return body
