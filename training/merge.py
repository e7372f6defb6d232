"""A checkpoint with the adapter's weights added in, for what takes whole models only: GGUF converters, some servers.

The adapter was trained over 4-bit weights and is added to the base model's own 16-bit ones, as is usual; results can differ in the
last digits from the adapter's, so a merged model is worth measuring again. Serving the adapter beside the base needs no merge.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from training.callbacks import Say
from training.card import PICTURE, card_text
from training.config import Quantization, RunFile, TrainingError
from training.data import check_signature
from training.license import RECORD
from training.run_folder import ADAPTER, read_evaluations, require_finished, require_preflight
from training.trace import verify_sources


def merge_run(run: RunFile, *, out: Path, say: Say = print) -> dict[str, Any]:
    """Write base model and adapter as one checkpoint folder, with tokenizer, card, licence record and where it came from."""
    from training.model import check_base

    done, checked = require_finished(run), require_preflight(run)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise TrainingError(str(out), "is there already; nothing was overwritten", "name an empty or new folder with --out")
    check_base(run.base_model, checked, mend="name the base model the run had; an adapter fits no other")
    check_signature(run, run.output / ADAPTER)
    verify_sources(run, done)
    _check_room(run.base_model, out)
    say(f"Adding {done['adapter_digest'][:12]} to {done['base']['id']}")
    aside = out.with_name(f".{out.name}.part")
    shutil.rmtree(aside, ignore_errors=True)
    try:
        _write_merged(run, aside)
        _write_record(run, done, aside)
        shutil.rmtree(out, ignore_errors=True)
        aside.rename(out)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return {"path": str(out), "base": done["base"]["id"], "licence": done["base"]["licence"], "adapter_digest": done["adapter_digest"]}


def _write_merged(run: RunFile, target: Path) -> None:
    from peft import PeftModel

    from training.model import load_base, load_tokenizer
    from training.scoring import end_tokens

    model: Any = PeftModel.from_pretrained(load_base(run.base_model, Quantization(kind="none"), dtype="bfloat16"), run.output / ADAPTER)
    merged = model.merge_and_unload()
    merged.config.use_cache = True
    tokenizer = load_tokenizer(run.base_model)
    merged.generation_config.eos_token_id = sorted(end_tokens(merged, tokenizer))
    merged.save_pretrained(target)
    tokenizer.save_pretrained(target)


def _write_record(run: RunFile, done: dict[str, Any], target: Path) -> None:
    """The licence goes with the weights, and the record lets the folder be a base model itself."""
    base, digest, snapshot = done["base"], done["adapter_digest"][:12], done["snapshot"]
    record = {
        "id": f"{base['id']} + {done['kind']} {digest}",
        "licence": base["licence"],
        "source": f"{base['id']} {base['digest'][:12]} with adapter {digest} of snapshot {snapshot['name']} v{snapshot['version']}",
        "note": "adapter merged into the 16-bit weights",
    }
    (target / RECORD).write_text(json.dumps(record, indent=2) + "\n")
    for name in ("LICENSE", "LICENSE.md", "LICENSE.txt", "NOTICE", "USE_POLICY.md"):
        if (run.base_model / name).is_file():
            shutil.copyfile(run.base_model / name, target / name)
    if (run.output / ADAPTER / PICTURE).is_file():
        shutil.copyfile(run.output / ADAPTER / PICTURE, target / PICTURE)
    evaluations = read_evaluations(run.output, done["adapter_digest"])
    (target / "README.md").write_text(card_text(done, evaluations=evaluations, merged=True))


def _check_room(base: Path, out: Path) -> None:
    needed = sum(path.stat().st_size for path in base.glob("*.safetensors"))
    home = next(parent for parent in (out, *out.absolute().parents) if parent.exists())
    free = shutil.disk_usage(home).free
    if free < needed * 1.1:
        fact = f"the merged model needs {needed // 1_000_000} MB and {free // 1_000_000} MB are free"
        raise TrainingError(str(out), fact, "make room, or name a folder elsewhere")
