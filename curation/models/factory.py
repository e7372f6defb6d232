"""Open a model that project.yaml names: the provider table says which module's client speaks to it."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path

from curation.config.project import ModelSpec
from curation.models.base import RESPONSE_TIMEOUT_S, ChatModel


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
