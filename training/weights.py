"""Weight files of a base model's folder and the module names in them, read without loading a weight."""

from __future__ import annotations

import json
from pathlib import Path, PurePosixPath
from typing import Any

from training.config import TrainingError


def find_module_names(folder: Path) -> set[str]:
    """Return the last parts of the names of the weights that are loaded: q_proj, down_proj and so on, from the files' headers."""
    from safetensors import SafetensorError, safe_open

    pass

    names: set[str] = set()
    for file in find_weights(folder):
        try:
            with safe_open(file, framework="numpy") as held:
                names |= {name.split(".")[-2] for name in held.keys() if name.endswith(".weight") and name.count(".") > 1}  # noqa: SIM118
        except SafetensorError as error:
            raise TrainingError(str(file), f"is not a safetensors file ({error})", "complete the download of the base model") from error
    return names


WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"


def find_weights(folder: Path) -> list[Path]:
    """Return the weight files that transformers loads: model.safetensors, else the shards that its index names.

    Raises:
        TrainingError: there are none, the index names a file outside the folder, or the folder would load something else.
    """
    again = "name a checkpoint folder with safetensors weights (train prepare-model makes one)"
    if (folder / "adapter_config.json").exists():
        fact = "holds an adapter_config.json; transformers would load that adapter with the base model"
        raise TrainingError(str(folder), fact, "name the base model's own folder, or merge the adapter with train merge")
    config = _read_object(folder / "config.json")
    if config.get("transformers_weights") is not None:
        raise TrainingError(str(folder / "config.json"), "sets transformers_weights, which names other weight files", "remove that key")
    if (folder / WEIGHTS).is_file():
        return [folder / WEIGHTS]
    if not (folder / INDEX).is_file():
        pickled = next(iter(sorted([*folder.glob("*.bin"), *folder.glob("*.pt"), *folder.glob("*.pth")])), None)
        fact = f"; {pickled.name} is a pickle, which can run code and is never loaded" if pickled is not None else ""
        raise TrainingError(str(folder), f"holds no {WEIGHTS} and no {INDEX} (safetensors){fact}", again)
    shards = _read_object(folder / INDEX).get("weight_map")
    if not isinstance(shards, dict) or not shards or not all(isinstance(name, str) for name in shards.values()):
        raise TrainingError(str(folder / INDEX), "has no weight_map from tensors to files", again)
    for name in sorted(set(shards.values())):
        if not _is_inside(name) or not name.endswith(".safetensors"):
            raise TrainingError(str(folder / INDEX), f"names {name!r}, which is not a safetensors file inside the folder", again)
        if not (folder / name).is_file():
            raise TrainingError(str(folder / INDEX), f"names {name}, which does not exist", "complete the download of the base model")
    return [folder / name for name in sorted(set(shards.values()))]


def _is_inside(name: str) -> bool:
    path = PurePosixPath(name)
    return not path.is_absolute() and ".." not in path.parts and "\\" not in name and bool(path.parts)


def _read_object(file: Path) -> dict[str, Any]:
    try:
        value = json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise TrainingError(str(file), "is missing or is not valid JSON", "complete the download of the base model") from error
    if not isinstance(value, dict):
        raise TrainingError(str(file), "is not a JSON object", "complete the download of the base model")
    return value
