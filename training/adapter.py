"""The identity of an adapter: a digest over its weights and its configuration.

Weights: sha256 over (name without the adapter's name, shape, fp32 bytes), sorted by name, whatever file, dtype or adapter name holds
them. Configuration: what PEFT reads from adapter_config.json, because rank, alpha, patterns and targets decide what the weights do.
The adapter on disk, the live one after training and the frozen reference inside a DPO trainer can be compared.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Iterable, Mapping
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from training.config import TrainingError

if TYPE_CHECKING:
    import numpy as np

WEIGHTS, SETTINGS = "adapter_model.safetensors", "adapter_config.json"
_DTYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2"}
_NOT_IN_DIGEST = frozenset({"auto_mapping", "base_model_name_or_path", "inference_mode", "peft_version", "revision", "runtime_config"})
"""Keys of adapter_config.json that change with the place or the library, not with what the adapter computes."""


def digest_of(weights: Mapping[str, np.ndarray], settings: Mapping[str, Any]) -> str:
    """Return the digest over named arrays and PEFT's configuration.

    Args:
        weights: fp32 arrays by name, the adapter's name left out.
        settings: adapter_config.json as a mapping, or `PeftConfig.to_dict()`.
    """
    import numpy as np

    digest = hashlib.sha256(json.dumps(_significant(settings), sort_keys=True, separators=(",", ":")).encode() + b"\n")
    for name in sorted(weights):
        values = np.ascontiguousarray(weights[name], dtype="<f4")
        digest.update(json.dumps([name, list(values.shape)], separators=(",", ":")).encode() + b"\n")
        digest.update(values.tobytes())
    return digest.hexdigest()


def folder_digest(folder: Path) -> str:
    """Return the digest of an adapter folder as PEFT saves it; needs no torch."""
    file = folder / WEIGHTS
    if not file.is_file():
        raise TrainingError(str(folder), f"holds no {WEIGHTS}, so it is not an adapter", "train sft RUN.yaml")
    settings = read_settings(folder)
    return digest_of(dict(_read_safetensors(file)), settings)


def read_settings(folder: Path) -> dict[str, Any]:
    """Return the adapter_config.json of an adapter folder."""
    file = folder / SETTINGS
    try:
        settings = json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise TrainingError(str(file), "is missing or is not valid JSON", "train the adapter again") from error
    if not isinstance(settings, dict):
        raise TrainingError(str(file), "is not a JSON object", "train the adapter again")
    return settings


def live_digest(model: Any, adapter: str) -> str:
    """Return the digest of the adapter named `adapter` inside a loaded PEFT model."""
    weights = {name: tensor.detach().float().cpu().numpy() for name, tensor in adapter_tensors(model, adapter)}
    return digest_of(weights, model.peft_config[adapter].to_dict())


def _significant(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings in plain JSON types. Unset keys are left out, so that a later PEFT with one more option gives the same digest."""
    plain = {key: _plain(value) for key, value in settings.items() if key not in _NOT_IN_DIGEST}
    return {key: value for key, value in plain.items() if not (value is None or value is False or value in ([], {}))}


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, set | frozenset | list | tuple):
        items = [_plain(inner) for inner in value]
        return sorted(items) if all(isinstance(item, str) for item in items) else items
    return value.value if isinstance(value, Enum) else value


def adapter_tensors(model: Any, adapter: str) -> Iterable[tuple[str, Any]]:
    """(name as in the saved file, parameter) of one adapter of a PEFT model."""
    for name, parameter in model.named_parameters():
        if f".{adapter}." in name and "lora_" in name:
            yield name.replace(f".{adapter}.", "."), parameter


def _read_safetensors(file: Path) -> Iterable[tuple[str, np.ndarray]]:
    """(name, fp32 array) of each tensor. Read by hand: numpy has no bfloat16, and torch costs two seconds to import."""
    import numpy as np

    body = file.read_bytes()
    try:
        size = struct.unpack("<Q", body[:8])[0]
        header = json.loads(body[8 : 8 + size])
        for name, entry in header.items():
            if name == "__metadata__":
                continue
            start, end = entry["data_offsets"]
            raw = np.frombuffer(body[8 + size + start : 8 + size + end], dtype=_DTYPES[entry["dtype"]]).reshape(entry["shape"])
            yield name, (raw.astype("<u4") << 16).view("<f4") if entry["dtype"] == "BF16" else raw.astype("<f4")
    except (struct.error, ValueError, KeyError, TypeError) as error:
        raise TrainingError(str(file), "is damaged; it cannot be read as safetensors", "train the adapter again") from error
