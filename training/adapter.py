"""The identity of an adapter: a digest over its weights, whatever file, dtype or adapter name holds them.

sha256 over (name without the adapter's name, shape, fp32 bytes), sorted by name. So the adapter on disk, the live one after
training and the frozen reference inside a DPO trainer can be compared.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from training.config import TrainingError

if TYPE_CHECKING:
    import numpy as np

WEIGHTS = "adapter_model.safetensors"
_DTYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2"}


def digest_of(weights: Mapping[str, np.ndarray]) -> str:
    """The digest over named fp32 arrays; names without the adapter's name."""
    import numpy as np

    digest = hashlib.sha256()
    for name in sorted(weights):
        values = np.ascontiguousarray(weights[name], dtype="<f4")
        digest.update(json.dumps([name, list(values.shape)], separators=(",", ":")).encode() + b"\n")
        digest.update(values.tobytes())
    return digest.hexdigest()


def folder_digest(folder: Path) -> str:
    """The digest of an adapter folder as PEFT saves it; needs no torch."""
    file = folder / WEIGHTS
    if not file.is_file():
        raise TrainingError(str(folder), f"holds no {WEIGHTS}, so it is no adapter", "train sft RUN.yaml")
    return digest_of(dict(_read_safetensors(file)))


def live_digest(model: Any, adapter: str) -> str:
    """The digest of the adapter named `adapter` inside a loaded PEFT model."""
    return digest_of({name: tensor.detach().float().cpu().numpy() for name, tensor in adapter_tensors(model, adapter)})


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
