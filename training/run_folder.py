"""The run folder: what a run writes. `resume.py` resumes a killed one.

    config.yaml  preflight.json  metrics.jsonl  checkpoints/  tensorboard/  adapter/  log.txt  eval.json  run.json

run.json is written last, so its presence means that the run is complete. It ends with a seal, a digest over the rest of it, which the
adapter folder repeats in training.json: `train sign` signs that folder, so a signed adapter also vouches for its run.json.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
import sys
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from curation.errors import command
from curation.records import canonical_json
from training.config import RunFile, TrainingError, load_run_file

RUN, PREFLIGHT, METRICS, CONFIG, EVAL, LOG = "run.json", "preflight.json", "metrics.jsonl", "config.yaml", "eval.json", "log.txt"
ADAPTER, CHECKPOINTS, MARK = "adapter", "checkpoints", "complete"
PROVENANCE = "training.json"
"""In the adapter folder: what the adapter was trained from, and the seal of its run.json."""
SCHEMA = 3
"""Of run.json and preflight.json. Up to 2 the adapter's digest left out its configuration and run.json had no seal."""
_PACKAGES = ("torch", "transformers", "peft", "trl", "bitsandbytes", "accelerate", "datasets", "seedcorn")


def write_json(path: Path, value: Any) -> Path:
    """Write a JSON file that a kill or a power cut leaves either as it was or whole."""
    from curation.snapshot.write import replace_file

    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    return replace_file(path, text.encode())


def read_json(path: Path) -> dict[str, Any]:
    """A JSON file of a run folder."""
    try:
        value: dict[str, Any] = json.loads(path.read_text())
    except ValueError as error:
        raise TrainingError(str(path), f"is damaged; it is not JSON ({error})", "train preflight RUN.yaml") from error
    return value


def find_finished(run: RunFile, *, say: Callable[[str], None] = lambda text: None) -> dict[str, Any] | None:
    """run.json of a finished run of these settings; None when there is none yet. Another run's folder is refused."""
    file = run.output / RUN
    if not file.is_file():
        return None
    done = require_run(run.output)
    if done["config_digest"] != run.digest:
        raise TrainingError(str(run.output), "holds a finished run with other settings", "name another output in the run file")
    snapshot = f"{done['snapshot']['name']} v{done['snapshot']['version']}"
    say(f"Done already: {run.output} (adapter {done['adapter_digest'][:12]}, trained on {snapshot}); nothing was changed")
    return done


def require_preflight(run: RunFile) -> dict[str, Any]:
    """preflight.json, if it was made for exactly these settings."""
    file, again = run.output / PREFLIGHT, command("train", "preflight", run.source)
    if not file.is_file():
        raise TrainingError(str(run.output), "has no preflight.json; nothing has been checked for this run", again)
    checked = _read_record(file)
    if checked["config_digest"] != run.digest:
        raise TrainingError(str(file), f"was made for other settings than {run.source.name} has now", again)
    return checked


def require_finished(run: RunFile) -> dict[str, Any]:
    """run.json of this run, which must be finished; the refusal names the command that finishes it."""
    copied = run.source == run.output / CONFIG  # paths in the copy are not relative to it, so it is no file to train from
    return require_run(run.output, again="train sft RUN.yaml, or train dpo RUN.yaml" if copied else command("train", run.kind, run.source))


def require_run(folder: Path, *, kind: str | None = None, again: str = "train sft RUN.yaml") -> dict[str, Any]:
    """Return run.json of a finished run, if neither it nor the adapter was changed since.

    Args:
        folder: the run folder.
        kind: the kind of run that is needed; None for any.
        again: the command that finishes the run, for the error.

    Raises:
        TrainingError: the run is not finished, is of another kind, or run.json or the adapter is not what the training wrote.
    """
    from training.adapter import folder_digest

    file = folder / RUN
    if not file.is_file():
        raise TrainingError(str(folder), "is no finished run (no run.json)", again)
    done = _read_record(file)
    if kind is not None and done["kind"] != kind:
        raise TrainingError(str(folder), f"is a run of kind {done['kind']}; {kind} is needed here", "name the SFT run's folder")
    if done.get("seal") != seal_of(done):
        raise TrainingError(str(file), "was changed after the training; its seal does not match", f"restore {RUN}, or train the run again")
    if folder_digest(folder / ADAPTER) != done["adapter_digest"]:
        fact = "is not the adapter run.json recorded; its weights or its adapter_config.json were changed"
        raise TrainingError(str(folder / ADAPTER), fact, "restore the adapter, or train it again")
    provenance = folder / ADAPTER / PROVENANCE
    if not provenance.is_file() or read_json(provenance) != describe_provenance(done):
        fact = f"is missing or does not match {RUN}; adapter and {RUN} belong to different trainings"
        raise TrainingError(str(provenance), fact, "restore both, or train the run again")
    return done


def write_run(folder: Path, result: dict[str, Any]) -> dict[str, Any]:
    """Seal and write run.json, which completes the run; returns what was written."""
    sealed = {**result, "seal": seal_of(result)}
    write_json(folder / ADAPTER / PROVENANCE, describe_provenance(sealed))
    write_json(folder / RUN, sealed)
    return sealed


def seal_of(result: Mapping[str, Any]) -> str:
    """Return the sha256 over run.json without its seal; layout and key order do not count."""
    return hashlib.sha256(canonical_json({key: value for key, value in result.items() if key != "seal"})).hexdigest()


def describe_provenance(sealed: Mapping[str, Any]) -> dict[str, Any]:
    """Return the content of the adapter's training.json for a sealed run.json."""
    facts = {key: sealed[key] for key in ("kind", "adapter_digest", "base", "use", "conditions", "seal")}
    keys = ("name", "version", "kind", "digest", "signer", "licence", "simulated_review")
    facts["snapshot"] = {key: sealed["snapshot"][key] for key in keys} | {"review": sealed["snapshot"].get("review", "all")}
    return {"schema": 1, **facts, "sft": sealed.get("sft")}


def open_run(target: Path) -> RunFile:
    """The settings of a run, from its run file or from its folder."""
    if not target.is_dir():
        return load_run_file(target)
    if not (target / PREFLIGHT).is_file() or not (target / CONFIG).is_file():
        raise TrainingError(str(target), "is no run folder", "train preflight RUN.yaml")
    anchor = target / read_json(target / PREFLIGHT)["run_file_folder"]
    return load_run_file(target / CONFIG, folder=anchor)


def read_evaluations(folder: Path, adapter_digest: str) -> list[dict[str, Any]]:
    """Return what was measured of an adapter, the run file's own set first, then the other sets by file name."""
    files = [folder / EVAL, *sorted(folder.glob("eval-*.json"))]
    found = [read_json(file) for file in files if file.is_file()]
    return [result for result in found if result.get("subject_digest") == adapter_digest]


def save_adapter(model: Any, tokenizer: Any, *, folder: Path, base_id: str) -> Path:
    """Write the trained adapter with its tokenizer, chat template and stop tokens to FOLDER/adapter; written aside, then renamed."""
    from transformers import GenerationConfig

    from curation.snapshot.write import sync_folder, sync_tree
    from training.scoring import end_tokens

    target, aside = folder / ADAPTER, folder / f".{ADAPTER}.part"
    shutil.rmtree(aside, ignore_errors=True)
    model.peft_config["default"].base_model_name_or_path = base_id
    # Not asking for embeddings also keeps PEFT from looking the base model up on a hub.
    model.save_pretrained(aside, selected_adapters=["default"], save_embedding_layers=False)
    tokenizer.save_pretrained(aside)
    stops = GenerationConfig(eos_token_id=sorted(end_tokens(model, tokenizer)), pad_token_id=tokenizer.pad_token_id)  # type: ignore[no-untyped-call]
    stops.save_pretrained(aside)
    sync_tree(aside)  # run.json is synced later and must not outlive the weights it names
    shutil.rmtree(target, ignore_errors=True)
    aside.rename(target)
    sync_folder(target.parent)
    return target


def relative(path: Path, folder: Path) -> str:
    """`path` as seen from the run folder, so that a project can be moved."""
    return Path(os.path.relpath(path, folder)).as_posix()


def describe_environment() -> dict[str, Any]:
    """Packages, Python and machine, for the record."""
    versions = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    host = {"machine": platform.machine(), "cpu": _cpu_name(), "cores": os.cpu_count(), "system": platform.system()} | _device()
    return {"versions": versions, "host": host, "finished": datetime.now(UTC).isoformat(timespec="seconds")}


def _read_record(file: Path) -> dict[str, Any]:
    value = read_json(file)
    if (schema := value.get("schema")) != SCHEMA:
        fact = f"was written by another version of train (schema {schema}, here {SCHEMA})"
        again = "train the run again under another output in the run file" if file.name == RUN else "train preflight RUN.yaml"
        if file.name == RUN and schema in (1, 2):
            fact += "; its adapter digest leaves out adapter_config.json, so a change of rank or alpha cannot be detected"
        raise TrainingError(str(file), fact, again)
    return value


def _device() -> dict[str, Any]:
    """What the numbers came from, and the most memory it took: of the GPU where there is one, else of the process."""
    import resource

    import torch

    if torch.cuda.is_available():
        return {"device": torch.cuda.get_device_name(0), "peak_memory_gib": round(torch.cuda.max_memory_allocated() / 1024**3, 2)}
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return {"device": "cpu", "threads": torch.get_num_threads(), "peak_memory_gib": round(peak / 1024**3, 2)}


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for text in info.read_text().splitlines():
            if text.startswith("model name"):
                return text.split(":", 1)[1].strip()
    return platform.processor()
