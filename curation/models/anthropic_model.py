"""The Messages API through the `anthropic` client. The body is sent exactly as given: the call's key was computed from it."""

from __future__ import annotations

import os
from functools import partial
from typing import TYPE_CHECKING, Any

from curation.models.base import ANSWER_S, Reply, SdkClients, is_loopback, network_of

if TYPE_CHECKING:
    from anthropic import AsyncAnthropic


class AnthropicModel:
    """A model of Anthropic's, or of a server that speaks the same protocol.

    Args:
        is_own: the address is Anthropic's, or one that the environment names. Otherwise no header goes there that the environment
            adds for Anthropic (ANTHROPIC_CUSTOM_HEADERS, ANTHROPIC_AUTH_TOKEN).
    """

    def __init__(self, *, address: str, key: str, is_own: bool, timeout_s: float = ANSWER_S) -> None:
        self.address = address
        self._key, self._is_own, self._timeout_s = key, is_own, timeout_s
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
        plain, usual = partial(httpx2.AsyncClient, trust_env=False), anthropic.DefaultAsyncHttpxClient
        return anthropic.AsyncAnthropic(
            api_key=self._key,
            base_url=self.address,
            max_retries=0,
            timeout=network["timeout"],
            http_client=(plain if is_loopback(self.address) else usual)(**network, follow_redirects=False),  # a key goes to one address
            default_headers=None if self._is_own else self._headers(),
        )

    def _headers(self) -> Any:
        import anthropic

        return {
            name: f"Bearer {self._key}" if name.lower() == "authorization" else anthropic.Omit() for name in _headers_from_environment()
        }


def _headers_from_environment() -> list[str]:
    lines = os.environ.get("ANTHROPIC_CUSTOM_HEADERS", "").split("\n")
    return [line.partition(":")[0].strip() for line in lines if ":" in line]
