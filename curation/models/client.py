"""One small protocol for a model behind HTTP, and its one implementation: the `anthropic` client.

`send` gives the response as bytes, whatever its status; what it says is read elsewhere, after it is on disk. The client's own
retries are off, since each try must be recorded. The body is sent exactly as given: the call's key was computed from it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from curation.errors import ModelUnavailable
from curation.project import ModelSpec

if TYPE_CHECKING:
    from anthropic import AsyncAnthropic

STAND_IN = "offline-stand-in"
_ANTHROPIC = "https://api.anthropic.com"
_CONNECT_S, _ANSWER_S = 10.0, 600.0


@dataclass(frozen=True)
class Reply:
    """An HTTP response, unread."""

    status: int
    raw: bytes
    headers: Mapping[str, str] = field(default_factory=dict)


class NoReply(Exception):
    """No response came back: the address cannot be reached, or it went silent.

    Args:
        reason: "unreachable", "timeout" or "dropped".
        detail: what the network said.
        sent: the request may have arrived, so it may have been paid for.
    """

    def __init__(self, reason: str, detail: str, *, sent: bool) -> None:
        self.reason, self.detail, self.sent = reason, detail, sent
        super().__init__(f"{reason}: {detail}")


class ChatModel(Protocol):
    """A model that answers the Messages API."""

    @property
    def address(self) -> str:
        """Where it is reached, for messages to people."""

    async def send(self, body: dict[str, Any]) -> Reply:
        """Ask once; raises NoReply when nothing came back."""

    async def request(self, method: str, path: str, body: dict[str, Any] | None = None) -> Reply:
        """Any other path of the same API."""

    async def close(self) -> None:
        """Give back the connections; a later `send` opens new ones."""


class AnthropicModel:
    """The Messages API through `anthropic.AsyncAnthropic`."""

    def __init__(self, *, address: str, key: str, is_local: bool, timeout_s: float = _ANSWER_S, connections: int = 256) -> None:
        self.address = address
        self._key, self._is_local, self._timeout_s, self._connections = key, is_local, timeout_s, connections
        self._client: AsyncAnthropic | None = None

    async def send(self, body: dict[str, Any]) -> Reply:
        """One POST to /v1/messages."""
        return await self.request("POST", "/v1/messages", body)

    async def request(self, method: str, path: str, body: dict[str, Any] | None = None) -> Reply:
        """One request, tried once; any status is a reply."""
        import anthropic
        import httpx2

        client = self._open()
        try:
            if method == "GET":
                response = await client.get(path, cast_to=httpx2.Response)
            else:
                response = await client.post(path, body=body, cast_to=httpx2.Response)
        except anthropic.APIStatusError as error:
            response = error.response
        except anthropic.APIConnectionError as error:
            raise _no_reply(error) from error
        return Reply(response.status_code, response.content, response.headers)

    async def close(self) -> None:
        """Give back the connections."""
        client, self._client = self._client, None
        if client is not None:
            await client.close()

    def _open(self) -> AsyncAnthropic:
        if self._client is None:
            import anthropic
            import httpx2

            timeout = httpx2.Timeout(self._timeout_s, connect=_CONNECT_S, pool=None)
            limits = httpx2.Limits(max_connections=self._connections, max_keepalive_connections=self._connections)
            # The stand-in is on this machine: no proxy (the SDK's own client takes one from the environment whatever it is told),
            # and no header that the environment adds for the real one.
            plain, usual = partial(httpx2.AsyncClient, trust_env=False, follow_redirects=True), anthropic.DefaultAsyncHttpxClient
            http = (plain if self._is_local else usual)(timeout=timeout, limits=limits)
            headers: Any = (
                {
                    name: f"Bearer {self._key}" if name.lower() == "authorization" else anthropic.Omit()
                    for name in _headers_from_environment()
                }
                if self._is_local
                else None
            )
            self._client = anthropic.AsyncAnthropic(
                api_key=self._key, base_url=self.address, max_retries=0, timeout=timeout, http_client=http, default_headers=headers
            )
        return self._client


def open_model(spec: ModelSpec, *, environ: Mapping[str, str], base_url: str | None = None, timeout_s: float = _ANSWER_S) -> AnthropicModel:
    """The client for a model of the project; it connects when it is first asked.

    Args:
        environ: where ANTHROPIC_API_KEY (and, without `base_url` in the project, ANTHROPIC_BASE_URL) are read from.
        base_url: where the offline stand-in runs, when project.yaml does not say.

    Raises:
        ModelUnavailable: no key, or no stand-in running.
    """
    if spec.provider == STAND_IN:
        address = spec.base_url or base_url
        if address is None:
            raise ModelUnavailable("the offline stand-in", "is not running", "start it with: curate standin start")
        return AnthropicModel(address=address, key=STAND_IN, is_local=True, timeout_s=timeout_s, connections=spec.concurrency)
    key = environ.get("ANTHROPIC_API_KEY", "").strip()
    if not key:
        how = "export ANTHROPIC_API_KEY=... and run again; `provider: offline-stand-in` in project.yaml needs none"
        raise ModelUnavailable("ANTHROPIC_API_KEY", f"is not set, and {spec.model} is asked with it", how)
    address = spec.base_url or environ.get("ANTHROPIC_BASE_URL") or _ANTHROPIC
    return AnthropicModel(address=address, key=key, is_local=False, timeout_s=timeout_s, connections=spec.concurrency)


def _no_reply(error: Exception) -> NoReply:
    import httpx2

    cause = error.__cause__ or error
    detail = f"{type(cause).__name__}: {cause}".rstrip(": ")
    if isinstance(cause, httpx2.ConnectError | httpx2.ConnectTimeout | httpx2.UnsupportedProtocol | httpx2.InvalidURL | httpx2.ProxyError):
        return NoReply("unreachable", detail, sent=False)
    return NoReply("timeout" if isinstance(cause, httpx2.TimeoutException) else "dropped", detail, sent=True)


def _headers_from_environment() -> list[str]:
    lines = os.environ.get("ANTHROPIC_CUSTOM_HEADERS", "").split("\n")
    return [line.partition(":")[0].strip() for line in lines if ":" in line]
