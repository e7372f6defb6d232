"""Chat completions through the `openai` client: OpenAI's own models, and any server that speaks the same (vLLM, TGI, Ollama)."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from curation.message_format import Limit, completion_body
from curation.models.base import ANSWER_S, Reply, SdkClients, is_loopback, network_of

if TYPE_CHECKING:
    from openai import AsyncOpenAI


class OpenAIModel:
    """A model behind chat completions.

    Args:
        is_own: the address is OpenAI's, not that of another server: then the limit has its new name there, and the environment's
            organization goes along.
    """

    def __init__(self, *, address: str, key: str, is_own: bool, timeout_s: float = ANSWER_S) -> None:
        self.address = address
        self._key, self._is_own, self._timeout_s = key, is_own, timeout_s
        self._limit: Limit = "max_completion_tokens" if is_own else "max_tokens"
        self._clients = SdkClients("openai", self._open)

    async def send(self, body: dict[str, Any]) -> Reply:
        """One POST to chat/completions."""
        asked = completion_body(body, limit=self._limit)
        return await self._clients.request("POST", "/chat/completions", asked, within_s=self._timeout_s)

    async def request(self, method: str, path: str, body: dict[str, Any] | None = None) -> Reply:
        """One request, tried once; any status is a reply."""
        return await self._clients.request(method, path, body)

    async def close(self) -> None:
        """Give back the connections."""
        await self._clients.close()

    def _open(self) -> AsyncOpenAI:
        import httpx2
        import openai

        network = network_of(self._timeout_s)
        plain, usual = partial(httpx2.AsyncClient, trust_env=False), openai.DefaultAsyncHttpxClient
        foreign: Any = {"OpenAI-Organization": openai.Omit(), "OpenAI-Project": openai.Omit()}
        return openai.AsyncOpenAI(
            api_key=self._key,
            base_url=self.address,
            max_retries=0,
            timeout=network["timeout"],
            http_client=(plain if is_loopback(self.address) else usual)(**network, follow_redirects=False),  # a key goes to one address
            default_headers=None if self._is_own else foreign,
        )
