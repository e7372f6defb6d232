"""The stand-in as an HTTP server: Messages, Models and Message Batches of Anthropic's API on loopback. It keeps its own log of every
request, and the truth about every planted flaw, in a folder outside the project.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import random
import re
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from curation.simulation.defects import chance
from curation.simulation.provider import Answered, Answers
from curation.simulation.request_parser import body_sha, count_tokens, read_request

__all__ = ["MODELS", "Faults", "Log", "Standin", "make_app"]

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


@dataclass(frozen=True)
class Batches:
    """Batches in a folder."""

    folder: Path
    seconds: float
    """How long a batch takes."""

    def create(self, value: Any, *, now: float) -> dict[str, Any]:
        """Take a batch in; its requests are checked only when they are answered, as the API does."""
        requests = value.get("requests") if isinstance(value, dict) else None
        if not isinstance(requests, list) or not requests:
            raise Refused(400, "requests: at least one request is required")
        ids = [r.get("custom_id") if isinstance(r, dict) else None for r in requests]
        if any(not isinstance(i, str) or not re.fullmatch(r"[a-zA-Z0-9_-]{1,64}", i) for i in ids):
            raise Refused(400, "requests: custom_id must match ^[a-zA-Z0-9_-]{1,64}$")
        if len(set(ids)) < len(ids):
            raise Refused(400, "requests: custom_id must be unique")
        if len(requests) > 100_000:
            raise Refused(413, "requests: at most 100000")
        self.folder.mkdir(parents=True, exist_ok=True)
        id_ = f"msgbatch_offline_{time.time_ns():x}{random.getrandbits(16):04x}"
        self._write(id_, {"id": id_, "created": now, "canceled": None, "requests": requests})
        return self.describe(id_, now=now)

    def describe(self, id_: str, *, now: float, counts: dict[str, int] | None = None) -> dict[str, Any]:
        """The batch object of the API."""
        batch = self.read(id_)
        ended, canceled = self.ended(batch, now), batch["canceled"]
        total = len(batch["requests"])
        tally = dict.fromkeys(("processing", "succeeded", "errored", "canceled", "expired"), 0)
        tally.update(counts or {"succeeded": total} if ended else {"processing": total})
        return {
            "id": id_,
            "type": "message_batch",
            "processing_status": "ended" if ended else "canceling" if canceled else "in_progress",
            "request_counts": tally,
            "created_at": _iso(batch["created"]),
            "expires_at": _iso(batch["created"] + timedelta(days=1).total_seconds()),
            "ended_at": _iso(batch["created"] + self.seconds) if ended else None,
            "archived_at": None,
            "cancel_initiated_at": _iso(canceled) if canceled else None,
            "results_url": f"/v1/messages/batches/{id_}/results" if ended else None,
        }

    def list(self) -> list[str]:
        """All batch ids, newest first."""
        return sorted((path.stem for path in self.folder.glob("msgbatch_*.json")), reverse=True)

    def cancel(self, id_: str, *, now: float) -> None:
        """Ask for an end; what is not done by then is canceled."""
        batch = self.read(id_)
        if not self.ended(batch, now) and batch["canceled"] is None:
            self._write(id_, {**batch, "canceled": now})

    def read(self, id_: str) -> dict[str, Any]:
        """A batch as it was taken in."""
        path = self.folder / f"{id_}.json"
        if not re.fullmatch(r"msgbatch_offline_[0-9a-f]+", id_) or not path.is_file():
            raise Refused(404, f"batch {id_} not found")
        value: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return value

    def ended(self, batch: dict[str, Any], now: float) -> bool:
        """Whether the batch is through: after its time, or half a second after it was canceled."""
        return now >= batch["created"] + self.seconds or (batch["canceled"] is not None and now >= batch["canceled"] + 0.5)

    def _write(self, id_: str, value: dict[str, Any]) -> None:
        aside = self.folder / f"{id_}.part"
        aside.write_text(json.dumps(value), encoding="utf-8")
        aside.replace(self.folder / f"{id_}.json")


def _iso(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat().replace("+00:00", "Z")


ERROR_TEXTS = {
    429: "This request would exceed the rate limit of the offline stand-in.",
    500: "The offline stand-in failed, as it was told to.",
    529: "The offline stand-in is overloaded, as it was told to be.",
}


@dataclass(frozen=True)
class Faults:
    """Errors injected on purpose, off by default."""

    errors: dict[int, float] = field(default_factory=dict)
    """Status to share of the requests: 429, 500, 529."""
    latency: float = 0.0
    """Seconds before each answer."""
    batch_seconds: float = 0.5
    batch_errors: float = 0.0
    """Share of a batch's requests that end errored; half as many expire."""
    key: str | None = None
    """The only key accepted; None accepts any."""


class Log:
    """Append-only JSON Lines beside each other: requests.jsonl and truth.jsonl."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._requests = (folder / "requests.jsonl").open("a", encoding="utf-8")
        self._truth = (folder / "truth.jsonl").open("a", encoding="utf-8")
        self._known = {json.loads(line)["message_id"] for line in (folder / "truth.jsonl").read_text(encoding="utf-8").splitlines()}
        self._lock = threading.Lock()

    def answered(self) -> Counter[str]:
        """How often each body was answered so far, by its digest."""
        lines = map(json.loads, Path(self._requests.name).read_text(encoding="utf-8").splitlines())
        return Counter(line["body_sha"] for line in lines if line["status"] == 200 and line["path"] == "POST /v1/messages")

    def request(self, *, path: str, status: int, sha: str | None = None, response_id: str | None = None) -> None:
        """One line per request that was answered."""
        self._write(self._requests, {"time": time.time(), "path": path, "status": status, "response_id": response_id, "body_sha": sha})

    def truth(self, answered: Answered) -> None:
        """One line per example of the teacher, once."""
        if answered.truths and answered.truths[0]["message_id"] not in self._known:
            self._known.add(answered.truths[0]["message_id"])
            for truth in answered.truths:
                self._write(self._truth, truth)

    def close(self) -> None:
        """Close both files."""
        self._requests.close()
        self._truth.close()

    def _write(self, file: Any, line: dict[str, Any]) -> None:
        with self._lock:
            file.write(json.dumps(line, ensure_ascii=False) + "\n")
            file.flush()


Endpoint = Callable[[Request], Awaitable[tuple[Any, str | None, str | None]]]


@dataclass
class Standin:
    """One running stand-in."""

    answers: Answers
    log: Log
    faults: Faults
    batches: Batches
    asked: int = 0
    """Requests so far; injected errors depend on it, so that a retry can succeed."""
    before: Counter[str] = field(default_factory=Counter)
    """How often each body was answered; the same prompt repeated gets other answers."""

    async def message(self, request: Request) -> tuple[Any, str | None, str | None]:
        """POST /v1/messages"""
        body = check_body(await _json(request))
        self._inject()
        if self.faults.latency:
            await asyncio.sleep(self.faults.latency)
        sha = body_sha(body)
        self.before[sha] += 1
        answered = self.answers.answer(body, nth=self.before[sha] - 1)
        self.log.truth(answered)
        return answered.message, sha, answered.message["id"]

    async def count(self, request: Request) -> tuple[Any, str | None, str | None]:
        """POST /v1/messages/count_tokens"""
        body = check_body({"max_tokens": 1, **await _json(request)})
        return {"input_tokens": count_tokens(read_request(body).text)}, None, None

    async def models(self, request: Request) -> tuple[Any, str | None, str | None]:
        """GET /v1/models and /v1/models/{id}"""
        name = request.path_params.get("id")
        if name is not None:
            return _model(check_model(name)), None, name
        known = [_model(n) for n in ("claude-opus-5-5", "claude-sonnet-5-5", "claude-haiku-5-5")]
        return {"data": known, "has_more": False, "first_id": known[0]["id"], "last_id": known[-1]["id"]}, None, None

    async def create_batch(self, request: Request) -> tuple[Any, str | None, str | None]:
        """POST /v1/messages/batches"""
        value = await _json(request)
        self._inject()
        batch = self.batches.create(value, now=time.time())
        return batch, body_sha(value), batch["id"]

    async def list_batches(self, request: Request) -> tuple[Any, str | None, str | None]:
        """GET /v1/messages/batches"""
        limit, after = int(request.query_params.get("limit", 20)), request.query_params.get("after_id")
        ids = self.batches.list()
        ids = ids[ids.index(after) + 1 :] if after in ids else ids
        page = [self._describe(i) for i in ids[:limit]]
        ends = {"first_id": page[0]["id"] if page else None, "last_id": page[-1]["id"] if page else None}
        return {"data": page, "has_more": len(ids) > limit, **ends}, None, None

    async def batch(self, request: Request) -> tuple[Any, str | None, str | None]:
        """GET /v1/messages/batches/{id}"""
        return self._describe(request.path_params["id"]), None, request.path_params["id"]

    async def cancel_batch(self, request: Request) -> tuple[Any, str | None, str | None]:
        """POST /v1/messages/batches/{id}/cancel"""
        self.batches.cancel(request.path_params["id"], now=time.time())
        return self._describe(request.path_params["id"]), None, request.path_params["id"]

    async def results(self, request: Request) -> tuple[Any, str | None, str | None]:
        """GET /v1/messages/batches/{id}/results: JSON Lines in no order."""
        id_ = request.path_params["id"]
        batch = self.batches.read(id_)
        if not self.batches.ended(batch, time.time()):
            raise Refused(404, f"batch {id_} has no results yet")
        lines = [{"custom_id": r["custom_id"], "result": self._result(id_, r, batch)} for r in batch["requests"]]
        random.Random(id_).shuffle(lines)
        return "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), None, id_

    def _describe(self, id_: str) -> dict[str, Any]:
        batch, counts = self.batches.read(id_), None
        if self.batches.ended(batch, time.time()):
            counts = Counter(self._outcome(id_, request, batch) for request in batch["requests"])
        return self.batches.describe(id_, now=time.time(), counts=counts)

    def _outcome(self, id_: str, request: dict[str, Any], batch: dict[str, Any]) -> str:
        if batch["canceled"] is not None:
            return "canceled"
        try:
            check_body(request.get("params"))
        except Refused:
            return "errored"
        if chance(self.faults.batch_errors, id_, request["custom_id"]):
            return "errored"
        return "expired" if chance(self.faults.batch_errors / 2, id_, request["custom_id"], "expired") else "succeeded"

    def _result(self, id_: str, request: dict[str, Any], batch: dict[str, Any]) -> dict[str, Any]:
        kind = self._outcome(id_, request, batch)
        if kind == "succeeded":
            answered = self.answers.answer(request["params"], nth=int(hashlib.sha256(request["custom_id"].encode()).hexdigest()[:8], 16))
            self.log.truth(answered)
            self.log.request(path="batch result", status=200, sha=body_sha(request["params"]), response_id=answered.message["id"])
            return {"type": "succeeded", "message": {**answered.message, "usage": {**answered.message["usage"], "service_tier": "batch"}}}
        if kind == "errored":
            try:
                check_body(request.get("params"))
                status, text = 500, ERROR_TEXTS[500]
            except Refused as refused:
                status, text = refused.status, refused.message
            return {"type": "errored", "error": error_body(status, text, f"req_offline_{request['custom_id']}")}
        return {"type": kind}

    def _inject(self) -> None:
        """Raise one of the errors asked for, by the count of requests: the same request tried again can pass."""
        self.asked += 1
        place, edge = random.Random(f"{self.answers.seed}:{self.asked}").random(), 0.0
        for status, share in self.faults.errors.items():
            edge += share
            if place < edge:
                raise Refused(status, ERROR_TEXTS.get(status, "The offline stand-in fails here, as it was told to."))


def make_app(standin: Standin) -> Starlette:
    """The server as an ASGI application."""
    paths: list[tuple[str, str, Endpoint]] = [
        ("POST", "/v1/messages", standin.message),
        ("POST", "/v1/messages/count_tokens", standin.count),
        ("GET", "/v1/models", standin.models),
        ("GET", "/v1/models/{id}", standin.models),
        ("POST", "/v1/messages/batches", standin.create_batch),
        ("GET", "/v1/messages/batches", standin.list_batches),
        ("GET", "/v1/messages/batches/{id}", standin.batch),
        ("POST", "/v1/messages/batches/{id}/cancel", standin.cancel_batch),
        ("GET", "/v1/messages/batches/{id}/results", standin.results),
    ]
    routes = [Route(path, _endpoint(standin, call), methods=[method]) for method, path, call in paths]
    return Starlette(routes=[*routes, Route("/healthz", _health, methods=["GET"])])


async def _health(request: Request) -> Response:
    return Response(b'{"offline_standin":true}', media_type="application/json")


def _endpoint(standin: Standin, call: Endpoint) -> Callable[[Request], Awaitable[Response]]:
    async def respond(request: Request) -> Response:
        request_id = f"req_offline_{random.getrandbits(64):016x}"
        headers = {"request-id": request_id, "x-offline-standin": "true"}
        sha: str | None = None
        try:
            check_key(request.headers, standin.faults.key)
            value, sha, response_id = await call(request)
            status = 200
        except Refused as refused:
            status, response_id = refused.status, None
            value = error_body(status, refused.message, request_id)
            headers |= {"retry-after": "0.2"} if status in (429, 529) else {}
        standin.log.request(path=f"{request.method} {request.url.path}", status=status, sha=sha, response_id=response_id)
        if isinstance(value, str):
            return Response(value, headers=headers, media_type="application/x-jsonl")
        if isinstance(value.get("results_url"), str):
            value = {**value, "results_url": str(request.base_url).rstrip("/") + value["results_url"]}
        return Response(
            json.dumps(value, ensure_ascii=False), status_code=status, headers=headers | _limits(), media_type="application/json"
        )

    return respond


def _limits() -> dict[str, str]:
    reset = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + 60))
    limits: dict[str, str] = {}
    for name, limit in (("requests", 4000), ("input-tokens", 2_000_000), ("output-tokens", 400_000)):
        prefix = f"anthropic-ratelimit-{name}"
        limits |= {f"{prefix}-limit": str(limit), f"{prefix}-remaining": str(limit - 1), f"{prefix}-reset": reset}
    return limits


def _model(name: str) -> dict[str, Any]:
    return {
        "type": "model",
        "id": name,
        "display_name": f"Offline stand-in (asked for as {name})",
        "created_at": "2026-01-01T00:00:00Z",
        "lifecycle": "active",
        "deprecated_at": None,
        "retires_at": None,
        "max_input_tokens": 200_000,
        "max_tokens": 64_000,
        "line": None,
        "capabilities": None,
    }


async def _json(request: Request) -> Any:
    raw = await request.body()
    if len(raw) > 32 * 2**20 and "batches" not in request.url.path:
        raise Refused(413, "Request exceeds the maximum size")
    try:
        return json.loads(raw)
    except ValueError as error:
        raise Refused(400, f"the body is not JSON: {error}") from error
