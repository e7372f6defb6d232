"""One small protocol for a model, and what every implementation of it over HTTP shares.

`send` gives the response as bytes, whatever its status; what it says is read elsewhere, after it is on disk. The clients' own
retries are off, since each try must be recorded.
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
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import urlsplit

from argilla_setup.shown import mask_secrets
from curation.config.project import ModelSpec

if TYPE_CHECKING:
    import httpx2

STAND_IN = "offline-stand-in"

MAKERS = {"anthropic": "https://api.anthropic.com", "openai": "https://api.openai.com/v1"}
"""Where the providers' own models are; their keys (ANTHROPIC_API_KEY, OPENAI_API_KEY) go nowhere else by a project's word."""

ANSWER_S = 600.0

_CONNECT_S = 10.0


@dataclass(frozen=True)
class Reply:
    """An HTTP response, unread."""

    status: int
    raw: bytes
    headers: Mapping[str, str] = field(default_factory=dict)
    """By their names in small letters."""


class NoReply(Exception):
    """No response came back: the address cannot be reached, or it went silent.

    Args:
        reason: "unreachable", "timeout" or "dropped".
        detail: what the network said.
        sent: the request may have arrived, so it may have been paid for.
    """

    def __init__(self, reason: str, detail: str, *, sent: bool) -> None:
        self.reason, self.detail, self.sent = reason, (detail := mask_secrets(detail)), sent
        super().__init__(f"{reason}: {detail}")


class ChatModel(Protocol):
    """A model that is asked in the Messages shape."""

    @property
    def address(self) -> str:
        """Where it is reached, for messages to people."""

    async def send(self, body: dict[str, Any]) -> Reply:
        """Ask once; raises NoReply when nothing came back."""

    async def request(self, method: str, path: str, body: dict[str, Any] | None = None) -> Reply:
        """Any other path of the same API."""

    async def close(self) -> None:
        """Give back the connections; a later `send` opens new ones."""


def key_name(spec: ModelSpec) -> str:
    """The environment variable that holds the key of a model."""
    return spec.key_env or ("OPENAI_API_KEY" if spec.provider == "openai" else "ANTHROPIC_API_KEY")


def is_foreign(spec: ModelSpec) -> bool:
    """Return whether project.yaml names another server than the provider's own."""
    if spec.base_url is None or spec.provider not in MAKERS:
        return False
    # Compared as text: two parsers may disagree about an odd address, and one of them sends the key.
    return spec.base_url.rstrip("/") not in (MAKERS[spec.provider], MAKERS[spec.provider].removesuffix("/v1"))


def is_loopback(address: str) -> bool:
    """Return whether a server is on this machine; requests to it use no proxy."""
    host = urlsplit(address).hostname or ""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:  # a name: 127.example.com is no loopback address
        return False


def network_of(timeout_s: float) -> dict[str, Any]:
    """Timeout, connections and certificates for an HTTP client; calls never wait for a connection, their number is limited elsewhere."""
    import httpx2

    timeout = httpx2.Timeout(timeout_s, connect=_CONNECT_S, pool=None)
    return {"timeout": timeout, "limits": httpx2.Limits(), "verify": _certificates()}


@functools.cache
def _certificates() -> ssl.SSLContext:
    """Read once: it takes ten milliseconds, and every client needs them."""
    import httpx2

    return httpx2.create_ssl_context()


def reply_of(response: httpx2.Response) -> Reply:
    """A response whose body has been read."""
    return Reply(response.status_code, response.content, dict(response.headers.items()))


def no_reply(error: Exception) -> NoReply:
    """What a connection error of either client means."""
    import httpx2

    cause = error.__cause__ or error
    detail = f"{type(cause).__name__}: {cause}".rstrip(": ")
    if isinstance(cause, httpx2.ConnectError | httpx2.ConnectTimeout | httpx2.UnsupportedProtocol | httpx2.InvalidURL | httpx2.ProxyError):
        return NoReply("unreachable", detail, sent=False)
    return NoReply("timeout" if isinstance(cause, httpx2.TimeoutException) else "dropped", detail, sent=True)


CALLS_EACH = 4
"""Calls on their way by one client; there are as many clients as that needs."""


@dataclass
class _Lent:
    client: Any
    calls: int = 0


class SdkClients:
    """The clients of one address, opened as they are needed.

    Args:
        sdk: the module they come from, imported when the first is opened.
        make: opens one.
    """

    def __init__(self, sdk: str, make: Callable[[], Any]) -> None:
        self._sdk, self._make, self._clients = sdk, make, list[_Lent]()

    async def request(self, method: str, path: str, body: dict[str, Any] | None = None, *, within_s: float | None = None) -> Reply:
        """One request, tried once.

        Args:
            within_s: for the whole reply; the clients' own limit begins anew with every byte.
        """
        import httpx2

        sdk = importlib.import_module(self._sdk)
        with self._lend() as client:
            try:
                async with asyncio.timeout(within_s):
                    if method == "GET":
                        return reply_of(await client.get(path, cast_to=httpx2.Response))
                    return reply_of(await client.post(path, body=body, cast_to=httpx2.Response))
            except TimeoutError as error:
                raise NoReply("timeout", f"no whole reply within {within_s:g} s", sent=True) from error
            except sdk.APIStatusError as error:
                return reply_of(error.response)
            except sdk.APIConnectionError as error:
                raise no_reply(error) from error

    async def close(self) -> None:
        """Give back the connections; a later request opens new clients."""
        clients, self._clients = self._clients, []
        await asyncio.gather(*(lent.client.close() for lent in clients))

    @contextmanager
    def _lend(self) -> Iterator[Any]:
        """The first client with room."""
        lent = next((lent for lent in self._clients if lent.calls < CALLS_EACH), None)
        if lent is None:
            lent = _Lent(self._make())
            self._clients.append(lent)
        lent.calls += 1
        try:
            yield lent.client
        finally:
            lent.calls -= 1
