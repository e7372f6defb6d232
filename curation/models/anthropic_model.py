"""The Messages API through the `anthropic` client. The body is sent exactly as given: the call's key was computed from it."""

from __future__ import annotations

import os
from functools import partial
from typing import TYPE_CHECKING, Any

from curation.models.client import ANSWER_S, Reply, network_of
from curation.models.sdk import SdkClients

if TYPE_CHECKING:
    from anthropic import AsyncAnthropic


class AnthropicModel:
    """A model of Anthropic's, or of a server that speaks the same protocol.

    Args:
        is_local: the offline stand-in: no proxy, and no header that the environment adds for the real one.
    """

    def __init__(self, *, address: str, key: str, is_local: bool, timeout_s: float = ANSWER_S) -> None:
        self.address = address
        self._key, self._is_local, self._timeout_s = key, is_local, timeout_s
        self._clients = SdkClients("anthropic", self._open)

    async def send(self, body: dict[str, Any]) -> Reply:
        """One POST to /v1/messages."""
        return await self._clients.request("POST", "/v1/messages", body, within_s=self._timeout_s)

    async def request(self, method: str, path: str, body: dict[str, Any] | None = None) -> Reply:
        """One request, tried once; any status is a reply."""
        return await self._clients.request(method, path, body)

    async def close(self) -> None:
        """Give back the connections."""
        await self._clients.close()

    def _open(self) -> AsyncAnthropic:
        import anthropic
        import httpx2

        network = network_of(self._timeout_s)
        # The SDK's own client takes a proxy from the environment whatever it is told.
        plain, usual = partial(httpx2.AsyncClient, trust_env=False, follow_redirects=True), anthropic.DefaultAsyncHttpxClient
        return anthropic.AsyncAnthropic(
            api_key=self._key,
            base_url=self.address,
            max_retries=0,
            timeout=network["timeout"],
            http_client=(plain if self._is_local else usual)(**network),
            default_headers=self._headers() if self._is_local else None,
        )

    def _headers(self) -> Any:
        import anthropic

        return {
            name: f"Bearer {self._key}" if name.lower() == "authorization" else anthropic.Omit() for name in _headers_from_environment()
        }


def _headers_from_environment() -> list[str]:
    lines = os.environ.get("ANTHROPIC_CUSTOM_HEADERS", "").split("\n")
    return [line.partition(":")[0].strip() for line in lines if ":" in line]
