"""Export a run's merged model as one GGUF file for llama.cpp and Ollama, with Modelfile, card, licence notice, checksums and signature.

The file is read back with transformers' GGUF loader and compared with the adapter on rows of the snapshot, as a merged model is: the
tokenizer must give the same tokens, and the logits may lose no more of the adapter's effect than a merge may.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from curation.errors import command
from training.callbacks import Say
from training.card import SIGNATURE
from training.config import RunFile
from training.data import read_rows
from training.errors import TrainingError
from training.gguf_file import FileType, check_architecture, write_gguf
from training.license import notice_text
from training.merge import (
    MOST_LOST,
    MergeCheck,
    compare_logits,
    fill_folder,
    open_release,
    read_logits,
    sign_release,
    write_merged,
    write_release,
)
from training.model import load_tokenizer
from training.ollama import find_parts, modelfile
from training.release import Source

MODELFILE = "Modelfile"
MOST_CONTEXT = 4096
"""Tokens of context in the Modelfile: Ollama reserves memory for all of them. The model may allow more."""


class Exported(BaseModel):
    """The result of exporting."""

    model_config = ConfigDict(frozen=True)

    path: str
    file: str
    bytes: int
    base: str
    licence: str
    adapter_digest: str
    merge: MergeCheck
    """The merged model compared with the adapter."""
    check: MergeCheck
    """The GGUF file, read back, compared with the adapter."""
    template: bool
    """Whether the chat template could be written for Ollama."""
    signature: str | None = None


def export_run(run: RunFile, *, out: Path, dtype: FileType = "bf16", key: Path | None = None, say: Say = print) -> Exported:
    """Merge a run's adapter and write the model as a GGUF file with everything that goes with it.

    Args:
        run: the finished run.
        out: the folder to create.
        dtype: type of the weight matrices.
        key: private key to sign the folder with; None leaves it unsigned.
        say: prints progress.

    Raises:
        TrainingError: the run or the disk does not allow it, llama.cpp has no such model, or the file is not what was merged.
        SnapshotError: a snapshot behind the adapter was revoked or is not validly signed.
    """
    check_architecture(json.loads((run.base_model / "config.json").read_text()))  # before the weights are read
    # The merged model is written next to the GGUF file and removed; f32 has twice its size.
    done, sources = open_release(run, out=out, times=3.1 if dtype == "f32" else 2.1)
    name = f"{re.sub(r'[^A-Za-z0-9._-]+', '-', done.snapshot.name)}-{done.kind}-{done.adapter_digest[:8]}"
    with fill_folder(out) as aside:
        merged = aside / "merged"
        merged.mkdir()
        kept = write_merged(run, done, sources, merged, say=say)
        say(f"Writing the GGUF file in {dtype}")
        tokenizer = load_tokenizer(merged)
        file = aside / f"{name}-{dtype}.gguf"
        write_gguf(merged, file, tokenizer=tokenizer, dtype=dtype, name=name, licence=done.base.licence, base=done.base.id)
        shutil.rmtree(merged)
        say("Reading the GGUF file back and comparing it with the adapter")
        check = compare_logits(kept.logits, _read_back(file, kept.texts, tokenizer, dtype=dtype), effect=kept.check.effect)
        if not check.lost <= MOST_LOST:  # written so that NaN is refused
            fact = f"the file does not answer as the adapter does: {check.describe()}"
            raise TrainingError(str(out), fact, "export it with another --type, or serve the adapter itself (train serve)")
        parts = find_parts(tokenizer)
        text = modelfile(
            file.name,
            parts=parts,
            template=tokenizer.get_chat_template(),
            stops=[tokenizer.convert_ids_to_tokens(index) for index in kept.stops],
            system=_find_system(sources[-1], run),
            context=min(kept.context, MOST_CONTEXT),
            notice=notice_text(done),
        )
        (aside / MODELFILE).write_text(text)
        write_release(run, done, sources, aside, form="gguf", dtype=dtype, check=check)
        signature = sign_release(aside, key)
    return Exported(
        path=str(out),
        file=file.name,
        bytes=(out / file.name).stat().st_size,
        base=done.base.id,
        licence=done.base.licence,
        adapter_digest=done.adapter_digest,
        merge=kept.check,
        check=check,
        template=parts is not None,
        signature=None if signature is None else str(out / SIGNATURE),
    )


def exported_text(result: Exported) -> str:
    """Return the result and the next step as text."""
    lines = [
        f"{result.path}/{result.file}: {result.bytes / 1e6:.0f} MB",
        f"  {result.base} with adapter {result.adapter_digest[:12]}, {result.licence}",
        f"  merged: {result.merge.describe()}",
        f"  file:   {result.check.describe()}",
    ]
    if not result.template:
        lines.append("  the chat template could not be written for Ollama; llama.cpp reads it from the file (--jinja)")
    if result.signature:
        lines.append(f"  signed: {result.signature}")
    create = f"cd {command(result.path)} && ollama create NAME -f {MODELFILE}"
    return "\n".join([*lines, f"Next: {create}, or llama-server --jinja -m {result.file}"])


def _read_back(file: Path, texts: list[list[int]], tokenizer: Any, *, dtype: FileType) -> Iterator[Any]:
    """Yield the logits of a GGUF file for each text; refuse a file whose tokenizer gives other tokens.

    Args:
        file: the file.
        texts: tokens of the texts.
        tokenizer: the tokenizer that it was written from.
        dtype: type of the weight matrices.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    found: dict[str, Any] = {
        "pretrained_model_name_or_path": str(file.parent),
        "gguf_file": file.name,
        "local_files_only": True,
    }
    other = AutoTokenizer.from_pretrained(**found, trust_remote_code=False)
    for ids in texts:
        text = tokenizer.decode(ids)
        if other(text, add_special_tokens=False)["input_ids"] != tokenizer(text, add_special_tokens=False)["input_ids"]:
            raise TrainingError(file.name, "its tokenizer gives other tokens than the model's", "convert the merged model with llama.cpp")
    model: Any = AutoModelForCausalLM.from_pretrained(
        **found,
        trust_remote_code=False,
        quantization_config=GgufConfig(dequantize=True),
        dtype=torch.float32 if dtype == "f32" else torch.bfloat16,
        device_map={"": 0 if torch.cuda.is_available() else "cpu"},
    )
    model.eval()
    return (read_logits(model, ids) for ids in texts)


def _find_system(source: Source, run: RunFile) -> str | None:
    """Return the system message if all training rows of the first method have the same one."""
    first = [row["prompt"][0] for row in read_rows(source.snapshot, "train", system=run.system)]
    texts = {message["content"] if message["role"] == "system" else None for message in first}
    return texts.pop() if len(texts) == 1 else None
