"""From a model named in project.yaml to something that can be asked."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from curation.errors import ModelUnavailable
from curation.models.anthropic_model import AnthropicModel
from curation.models.client import ANSWER_S, STAND_IN, ChatModel, key_name
from curation.models.local_model import LocalModel
from curation.models.openai_model import OpenAIModel
from curation.project import ModelSpec

_ANTHROPIC, _OPENAI = "https://api.anthropic.com", "https://api.openai.com/v1"


def open_model(
    spec: ModelSpec,
    *,
    environ: Mapping[str, str],
    base_url: str | None = None,
    folder: Path | None = None,
    timeout_s: float = ANSWER_S,
) -> ChatModel:
    """A model of the project; it connects, or is loaded, when it is first asked.

    Args:
        environ: where keys (and, without `base_url` in the project, ANTHROPIC_BASE_URL or OPENAI_BASE_URL) are read from.
        base_url: where the offline stand-in runs, when project.yaml does not say.
        folder: the project's, from which a local model's folder is found.

    Raises:
        ModelUnavailable: no key, or no stand-in running.
    """
    if spec.provider == STAND_IN:
        address = spec.base_url or base_url
        if address is None:
            raise ModelUnavailable("the offline stand-in", "is not running", "start it with: curate standin start")
        return AnthropicModel(address=address, key=STAND_IN, is_local=True, timeout_s=timeout_s)
    if spec.provider == "transformers":
        return LocalModel(((folder or Path()) / spec.model).resolve())
    if spec.provider == "openai":
        address = spec.base_url or environ.get("OPENAI_BASE_URL") or _OPENAI
        key = _openai_key(spec, environ)
        return OpenAIModel(address=address, key=key, is_own=address == _OPENAI, timeout_s=timeout_s)
    address = spec.base_url or environ.get("ANTHROPIC_BASE_URL") or _ANTHROPIC
    return AnthropicModel(address=address, key=_key(spec, environ), is_local=False, timeout_s=timeout_s)


def has_key(spec: ModelSpec, environ: Mapping[str, str]) -> bool:
    """Whether the model can be asked with what the environment holds."""
    is_keyless = spec.provider in (STAND_IN, "transformers") or (spec.provider == "openai" and spec.base_url and not spec.key_env)
    return bool(is_keyless or environ.get(key_name(spec), "").strip())


def _openai_key(spec: ModelSpec, environ: Mapping[str, str]) -> str:
    """OPENAI_API_KEY goes to OpenAI alone: another server is given the key that `key_env` names, or none."""
    return "none" if spec.base_url and not spec.key_env else _key(spec, environ)


def _key(spec: ModelSpec, environ: Mapping[str, str]) -> str:
    name = key_name(spec)
    key = environ.get(name, "").strip()
    if not key:
        how = f"export {name}=... and run again; `provider: offline-stand-in` in project.yaml needs none"
        raise ModelUnavailable(name, f"is not set, and {spec.model} is asked with it", how)
    return key
