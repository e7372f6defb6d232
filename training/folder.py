"""The run folder: what a run leaves behind, and how a killed one is taken up again.

    config.yaml  preflight.json  metrics.jsonl  checkpoints/  adapter/  log.txt  eval.json  run.json

run.json is written last, so its presence means that the run is whole. A checkpoint counts only when it holds the mark that
is written after everything else in it.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from training.config import RunFile, TrainingError, load_run_file

RUN, PREFLIGHT, METRICS, CONFIG, EVAL, LOG = "run.json", "preflight.json", "metrics.jsonl", "config.yaml", "eval.json", "log.txt"
ADAPTER, CHECKPOINTS, MARK = "adapter", "checkpoints", "complete"
_PACKAGES = ("torch", "transformers", "peft", "trl", "bitsandbytes", "accelerate", "datasets", "seedcorn")


def write_json(path: Path, value: Any) -> Path:
    """Write aside, then rename, so that a reader never sees half a file."""
    aside = path.with_name(f".{path.name}.part")
    aside.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n")
    aside.replace(path)
    return path


def read_json(path: Path) -> dict[str, Any]:
    """A JSON file of a run folder."""
    value: dict[str, Any] = json.loads(path.read_text())
    return value


def find_finished(run: RunFile) -> dict[str, Any] | None:
    """run.json of a finished run of these settings; None when there is none yet. Another run's folder is refused."""
    file = run.output / RUN
    if not file.is_file():
        return None
    done = read_json(file)
    if done["config_digest"] != run.digest:
        raise TrainingError(str(run.output), "holds a finished run with other settings", "name another output in the run file")
    return done


def require_preflight(run: RunFile) -> dict[str, Any]:
    """preflight.json, if it was made for exactly these settings."""
    file, command = run.output / PREFLIGHT, f"train preflight {run.source.name}"
    if not file.is_file():
        raise TrainingError(str(run.output), "has no preflight.json; nothing has been checked for this run", command)
    checked = read_json(file)
    if checked["config_digest"] != run.digest:
        raise TrainingError(str(file), f"was made for other settings than {run.source.name} has now", command)
    return checked


def require_run(folder: Path, *, kind: str | None = None) -> dict[str, Any]:
    """run.json of a finished run whose adapter is still the one it recorded."""
    from training.adapter import folder_digest

    if not (folder / RUN).is_file():
        raise TrainingError(str(folder), "is no finished run (no run.json)", "train sft RUN.yaml")
    done = read_json(folder / RUN)
    if kind is not None and done["kind"] != kind:
        raise TrainingError(str(folder), f"is a run of kind {done['kind']}; {kind} is needed here", "name the SFT run's folder")
    if folder_digest(folder / ADAPTER) != done["adapter_digest"]:
        raise TrainingError(str(folder / ADAPTER), "is not the adapter run.json recorded; it was changed", "train it again")
    return done


def open_run(target: Path) -> RunFile:
    """The settings of a run, from its run file or from its folder."""
    if not target.is_dir():
        return load_run_file(target)
    if not (target / PREFLIGHT).is_file() or not (target / CONFIG).is_file():
        raise TrainingError(str(target), "is no run folder", "train preflight RUN.yaml")
    anchor = target / read_json(target / PREFLIGHT)["run_file_folder"]
    return load_run_file(target / CONFIG, folder=anchor)


def find_checkpoint(folder: Path) -> Path | None:
    """The last complete checkpoint; what a kill left half-written is taken away."""
    home = folder / CHECKPOINTS
    complete: list[tuple[int, Path]] = []
    for path in home.glob("checkpoint-*") if home.is_dir() else ():
        if (path / MARK).is_file():
            complete.append((int(path.name.removeprefix("checkpoint-")), path))
        else:
            shutil.rmtree(path)
    return max(complete)[1] if complete else None


def restore_metrics(folder: Path, checkpoint: Path | None) -> None:
    """Put metrics.jsonl back to what it was at the checkpoint, so that no step is in it twice."""
    history = read_json(checkpoint / "trainer_state.json")["log_history"] if checkpoint else []
    (folder / METRICS).write_text("".join(json.dumps(entry) + "\n" for entry in history))


def save_adapter(model: Any, tokenizer: Any, *, folder: Path, base_id: str) -> Path:
    """The trained adapter and the chat template it was trained with, in FOLDER/adapter; written aside, then renamed."""
    target, aside = folder / ADAPTER, folder / f".{ADAPTER}.part"
    shutil.rmtree(aside, ignore_errors=True)
    model.peft_config["default"].base_model_name_or_path = base_id
    # Not asking for embeddings also keeps PEFT from looking the base model up on a hub.
    model.save_pretrained(aside, selected_adapters=["default"], save_embedding_layers=False)
    tokenizer.save_pretrained(aside)
    shutil.rmtree(target, ignore_errors=True)
    aside.rename(target)
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
    host = {"machine": platform.machine(), "cpu": _cpu_name(), "cores": os.cpu_count(), "system": platform.system()}
    return {"versions": versions, "host": host, "finished": datetime.now(UTC).isoformat(timespec="seconds")}


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for text in info.read_text().splitlines():
            if text.startswith("model name"):
                return text.split(":", 1)[1].strip()
    return platform.processor()
