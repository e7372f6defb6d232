"""The providers that serve models: one entry per value of `provider` in project.yaml.

Whatever depends on the provider (client, key, prices, terms, batches, prompt cache, simulation) is read from this table. A new provider
is one entry here, its name in `ProviderName`, and one module in `curation/models/` that defines `open_client`. The table holds values
only, so the pure packages can read it; the client is named by its module and is imported when a model is opened.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

ProviderName = Literal["anthropic", "openai", "transformers", "offline-stand-in"]


@dataclass(frozen=True)
class Provider:
    """Properties of a provider that the rest of the product depends on."""

    client: str
    """Module that defines `open_client(spec, *, environ, folder, timeout_s) -> ChatModel`."""
    protocol: str
    """Name of its API in error messages."""
    address: str | None = None
    """Base URL of the provider's own models; None where there is no such server."""
    key_env: str | None = None
    """Environment variable of its key, which is sent to `address` only; None where no key is needed."""
    any_server: bool = False
    """Other vendors serve their models through the same protocol: at a `base_url`, this provider's prices, terms and key do not apply."""
    price_list: str | None = None
    """Section of prices.yaml; None where only `price` in project.yaml says what a call costs."""
    is_free: bool = False
    """Calls cost nothing."""
    has_batches: bool = False
    """It has the Message Batches API."""
    caches_prompts: bool = False
    """Long system prompts are marked with `cache_control`."""
    is_simulated: bool = False
    """Its responses are made up on this machine: they never mix with real ones, and no terms apply to them."""


PROVIDERS: dict[ProviderName, Provider] = {
    "anthropic": Provider(
        client="curation.models.anthropic_model",
        protocol="the Messages API",
        address="https://api.anthropic.com",
        key_env="ANTHROPIC_API_KEY",
        price_list="anthropic",
        has_batches=True,
        caches_prompts=True,
    ),
    "openai": Provider(
        client="curation.models.openai_model",
        protocol="chat completions",
        address="https://api.openai.com/v1",
        key_env="OPENAI_API_KEY",
        any_server=True,
        price_list="openai",
    ),
    "transformers": Provider(client="curation.models.local_model", protocol="a local folder", is_free=True),
    "offline-stand-in": Provider(
        client="curation.models.offline_model",
        protocol="the Messages API",
        price_list="anthropic",
        has_batches=True,
        is_simulated=True,
    ),
}
