"""From a model named in project.yaml to something that can be asked."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

from curation.config.project import ModelSpec
from curation.errors import ModelUnavailable, command
from curation.models.anthropic_model import AnthropicModel
from curation.models.base import ANSWER_S, MAKERS, STAND_IN, ChatModel, is_foreign, is_loopback, key_name
from curation.models.local_model import LocalModel
from curation.models.openai_model import OpenAIModel

NO_KEY = "none"

ELSEWHERE = (
    "ANTHROPIC_", "ARGILLA_", "AWS_", "AZURE_", "CLAUDE_", "GEMINI_", "GH_", "GITHUB_", "GITLAB_", "GOOGLE_", "HF_", "HUGGINGFACE",
    "HUGGING_FACE_", "OPENAI_", "SSH_", "WANDB_",
)  # fmt: skip
"""Beginnings of the names of variables that hold keys for known services; a project cannot have them sent to a server it chooses."""


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
        ModelUnavailable: no key, a key that must not go to this address, or no stand-in running.
    """
    if spec.provider == STAND_IN:
        address = spec.base_url or base_url
        if address is None:
            raise ModelUnavailable("the offline stand-in", "is not running", "start it with: curate simulate start")
        return AnthropicModel(address=address, key=STAND_IN, is_own=False, timeout_s=timeout_s)
    if spec.provider == "transformers":
        return LocalModel(((folder or Path()) / spec.model).resolve())
    address = spec.base_url or environ.get(f"{spec.provider.upper()}_BASE_URL") or MAKERS[spec.provider]
    key = _key(spec, environ)
    _check_address(spec, address, has_key=key != NO_KEY)
    is_own = not is_foreign(spec)
    if spec.provider == "openai":
        return OpenAIModel(address=address, key=key, is_own=address == MAKERS["openai"], timeout_s=timeout_s)
    return AnthropicModel(address=address, key=key, is_own=is_own, timeout_s=timeout_s)


def has_key(spec: ModelSpec, environ: Mapping[str, str]) -> bool:
    """Return whether the model can be asked with what the environment holds."""
    return spec.provider in (STAND_IN, "transformers") or _goes_without(spec) or bool(environ.get(key_name(spec), "").strip())


def _goes_without(spec: ModelSpec) -> bool:
    """Return whether a model is asked without any key: a server of one's own that names no `key_env`."""
    return is_foreign(spec) and spec.key_env is None and (spec.provider == "openai" or is_loopback(spec.base_url or ""))


def _key(spec: ModelSpec, environ: Mapping[str, str]) -> str:
    """Return the key that goes to a model. A server that project.yaml names is given the key of `key_env` or none.

    Raises:
        ModelUnavailable: the variable is not set, or its key is meant for another service.
    """
    if _goes_without(spec):
        return NO_KEY
    name = key_name(spec)
    if is_foreign(spec) and (spec.key_env is None or spec.key_env.upper().startswith(ELSEWHERE)):
        fact = f"is not sent to {spec.base_url}, which project.yaml names as base_url: that key is for another service"
        how = "put this server's key into a variable of its own and name that as key_env"
        raise ModelUnavailable(name, fact, how)
    key = environ.get(name, "").strip()
    if not key:
        how = f"export {name}=... and run again; `provider: offline-stand-in` in project.yaml needs none"
        raise ModelUnavailable(name, f"is not set, and {spec.model} is asked with it", how)
    return key


def _check_address(spec: ModelSpec, address: str, *, has_key: bool) -> None:
    """Refuse to send a key in clear text, and an address that is none."""
    try:
        parts = urlsplit(address)
        well_formed = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        well_formed = False
    if not well_formed or any(sign.isspace() or sign == "\\" for sign in address):
        raise ModelUnavailable(f"model {spec.model}: base_url", f"is no address ({address})", "write https://HOST/...")
    if has_key and parts.scheme != "https" and not is_loopback(address):
        fact = f"is {address}, and the key in {key_name(spec)} would go there in clear text"
        raise ModelUnavailable(f"model {spec.model}: base_url", fact, "use https, or a tunnel to 127.0.0.1")


STATE = ".standin.json"


def read_address(folder: Path) -> str:
    """The address in FOLDER/.standin.json.

    Raises:
        ModelUnavailable: it was never started here.
    """
    path = folder / STATE
    if not path.is_file():
        start = command("curate", "simulate", "start", folder, "--log", "standin-log")
        raise ModelUnavailable("the offline stand-in", "is not running for this project", start)
    return str(json.loads(path.read_text(encoding="utf-8"))["url"])
