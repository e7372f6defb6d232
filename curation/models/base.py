"""The `ChatModel` protocol that every provider module implements, and the HTTP parts those modules share.

`send` returns the response as bytes, whatever its status; it is parsed after it is on disk. The SDKs' own retries are off, because every
try has to be recorded in the ledger.
"""

from __future__ import annotations

import asyncio
import functools
import importlib
import ipaddress
import ssl
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

from argilla_setup.shown import mask_secrets
from curation.config.models import ModelSpec
from curation.errors import ModelUnavailable

Body = dict[str, Any]
"""JSON body of a request in the format of the Messages API."""

RESPONSE_TIMEOUT_S = 600.0
_CONNECT_TIMEOUT_S = 10.0


@dataclass(frozen=True)
class Response:
    """An HTTP response whose body has not been parsed."""

    status: int
    raw: bytes
    headers: Mapping[str, str] = field(default_factory=dict)
    """Names in lower case."""


class NoResponse(Exception):
    """No response arrived: the address cannot be reached, or the connection ended first.

    Args:
        reason: "unreachable", "timeout" or "dropped".
        detail: message of the network library; secrets in it are masked.
        sent: the request may have arrived, so it may have been billed.
    """

    def __init__(self, reason: str, detail: str, *, sent: bool) -> None:
        self.reason, self.detail, self.sent = reason, (detail := mask_secrets(detail)), sent
        super().__init__(f"{reason}: {detail}")


class NotReached(ModelUnavailable):
    """The provider could not be queried; nothing is known about the model."""


@dataclass(frozen=True)
class ModelInfo:
    """Properties of a model as its provider describes them."""

    model: str
    address: str
    display_name: str
    lifecycle: str = "unknown"
    """ "active", "deprecated", "local", or "unknown" where the address does not describe its models."""
    retires: str | None = None
    """Day of the scheduled end of life (YYYY-MM-DD)."""
    max_input_tokens: int | None = None
    max_tokens: int | None = None
    takes_batches: bool | None = None
    """None where the address does not say."""

    @property
    def warning(self) -> str | None:
        """Sentence about the model's end of life, if it is known."""
        if self.retires is not None:
            return f"{self.model} is {self.lifecycle} and will be retired on {self.retires}"
        return f"{self.model} is deprecated: it has no long future" if self.lifecycle == "deprecated" else None


class ChatModel(Protocol):
    """A model that takes requests in the format of the Messages API."""

    @property
    def address(self) -> str:
        """Base URL or folder, for messages to people."""

    async def send(self, body: Body) -> Response:
        """Send one request; raises NoResponse when nothing came back."""

    async def request(self, method: str, path: str, body: Body | None = None) -> Response:
        """Call another path of the same API; batches use it.

        Args:
            method: "GET" or "POST".
            path: path below the base URL.
            body: JSON body of a POST.
        """

    async def describe(self, spec: ModelSpec) -> ModelInfo:
        """Query the model's properties; raises ModelUnavailable when it cannot be used. Nothing is billed."""

    async def count_tokens(self, body: Body) -> int | str:
        """Return the prompt tokens of a request, or the reason why there is no count. Nothing is billed."""

    async def close(self) -> None:
        """Close the connections; a later `send` opens new ones."""


def is_loopback(address: str) -> bool:
    """Return whether a server is on this machine; requests to it use no proxy."""
    host = urlsplit(address).hostname or ""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:  # a host name: 127.example.com is not a loopback address
        return False


def network_options(timeout_s: float) -> dict[str, Any]:
    """Return timeout, limits and certificates for an HTTP client; the number of connections is limited by the callers."""
    import httpx2

    # pool=None: calls never time out while they wait for a connection; AdaptiveLimit decides how many are in flight.
    timeout = httpx2.Timeout(timeout_s, connect=_CONNECT_TIMEOUT_S, pool=None)
    return {"timeout": timeout, "limits": httpx2.Limits(), "verify": _certificates()}


@functools.cache
def _certificates() -> ssl.SSLContext:
    """Load the certificates once: loading takes 10 ms, and every client needs them."""
    import httpx2

    return httpx2.create_ssl_context()


def classify_connection_error(error: Exception) -> NoResponse:
    """Return the NoResponse for a connection error of either SDK."""
    import httpx2

    # Both SDKs wrap httpx errors; the cause shows whether the request can have left this machine.
    cause = error.__cause__ or error
    detail = f"{type(cause).__name__}: {cause}".rstrip(": ")
    if isinstance(cause, httpx2.ConnectError | httpx2.ConnectTimeout | httpx2.UnsupportedProtocol | httpx2.InvalidURL | httpx2.ProxyError):
        return NoResponse("unreachable", detail, sent=False)
    return NoResponse("timeout" if isinstance(cause, httpx2.TimeoutException) else "dropped", detail, sent=True)


CALLS_PER_CLIENT = 4
"""Calls in flight on one client. With one client for all, httpx would search a pool of up to 256 connections at every call."""


@dataclass
class _PooledClient:
    client: Any
    calls: int = 0


class SdkClients:
    """A pool of SDK clients for one address, which grows with the number of calls in flight.

    Args:
        sdk: name of the SDK's module, imported when the first client is made.
        make: creates one client.
    """

    def __init__(self, sdk: str, make: Callable[[], Any]) -> None:
        self._sdk, self._make, self._clients = sdk, make, list[_PooledClient]()

    async def request(self, method: str, path: str, body: Body | None = None, *, timeout_s: float | None = None) -> Response:
        """Send one request, once; every HTTP status is a response.

        Args:
            method: "GET" or "POST".
            path: path below the base URL.
            body: JSON body of a POST.
            timeout_s: limit for the whole response. The SDK's own timeout restarts with every byte that arrives.

        Raises:
            NoResponse: nothing, or not the whole response, came back.
        """
        import httpx2

        # Importing an SDK takes 0.7 s (openai) to 1.8 s (anthropic), so it happens with the first request only.
        sdk = importlib.import_module(self._sdk)
        with self._lend() as client:
            try:
                async with asyncio.timeout(timeout_s):
                    # cast_to=Response returns the raw bytes: the SDK's own parsing would raise on a body that was paid for.
                    if method == "GET":
                        found = await client.get(path, cast_to=httpx2.Response)
                    else:
                        found = await client.post(path, body=body, cast_to=httpx2.Response)
            except TimeoutError as error:
                raise NoResponse("timeout", f"no complete response within {timeout_s:g} s", sent=True) from error
            except sdk.APIStatusError as error:
                found = error.response
            except sdk.APIConnectionError as error:
                raise classify_connection_error(error) from error
            return Response(found.status_code, found.content, dict(found.headers.items()))

    async def close(self) -> None:
        """Close all connections; a later request opens new clients."""
        clients, self._clients = self._clients, []
        await asyncio.gather(*(pooled.client.close() for pooled in clients))

    @contextmanager
    def _lend(self) -> Iterator[Any]:
        """Yield the first client with a free slot."""
        pooled = next((pooled for pooled in self._clients if pooled.calls < CALLS_PER_CLIENT), None)
        if pooled is None:
            pooled = _PooledClient(self._make())
            self._clients.append(pooled)
        pooled.calls += 1
        try:
            yield pooled.client
        finally:
            pooled.calls -= 1


def open_model(
    spec: ModelSpec, *, environ: Mapping[str, str], folder: Path | None = None, timeout_s: float = RESPONSE_TIMEOUT_S
) -> ChatModel:
    """Open a model of the project; it connects, or is loaded, with the first request.

    Args:
        spec: the model.
        environ: source of keys, and of PROVIDER_BASE_URL where the project names no `base_url`.
        folder: the project's folder, in which a local model and the mock provider's address are found.
        timeout_s: limit for one response.

    Raises:
        ModelUnavailable: the key is missing or must not be sent to this address, or the mock provider is not running.
    """
    module = importlib.import_module(spec.provider_info.client)
    model: ChatModel = module.open_client(spec, environ=environ, folder=folder or Path(), timeout_s=timeout_s)
    return model
