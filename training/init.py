"""Write the two run files of a project: SFT first, then DPO from its adapter, never both in one run."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from types import MappingProxyType
from typing import Any

import yaml

from curation.errors import command
from training.config import TrainingError, load_run_file
from training.run_folder import relative

KINDS = {"sft": "instruction", "dpo": "preference"}
NOTHING = "\0"


def write_run_files(
    folder: Path,
    *,
    project: Path,
    model: Path,
    keys: Sequence[Path] = (),
    epochs: Mapping[str, float | None] = MappingProxyType({}),
    evaluation: Path | None = None,
    items: int | None = None,
    allow_simulated_review: bool = False,
) -> dict[str, Any]:
    """sft.yaml and dpo.yaml in `folder`, for the newest snapshots of a project; files that exist are kept.

    Args:
        epochs: by kind of run, what replaces the template's.
        evaluation: the protected set to measure on, where the project has several.
        items: how many lines of it are evaluated.
    """
    if not project.is_dir():
        raise TrainingError(f"project {project}", "does not exist", "name the folder that curate init made")
    names = {kind: find_snapshot_name(project / "snapshots", kind) for kind in KINDS.values()}
    evaluation = evaluation or _find_one(project / "protected", "*.jsonl", what="protected set")
    tables = sorted((project / "tables").glob("*.parquet")) if (project / "tables").is_dir() else []
    folder.mkdir(parents=True, exist_ok=True)
    written = {}
    for kind, rows in KINDS.items():
        target = folder / f"{kind}.yaml"
        written[kind] = str(target)
        if target.exists():
            load_run_file(target)
            continue
        changes: dict[str, Any] = {
            "snapshot": relative(project / "snapshots" / names[rows], folder) + "@latest",
            "base_model": relative(model, folder),
            "file": relative(evaluation, folder),
            "preference_snapshot": relative(project / "snapshots" / names["preference"], folder) + "@latest",
            "table": relative(tables[0], folder) if tables else NOTHING,
            "trusted_keys": [relative(key, folder) for key in keys],
            "allow_simulated_review": allow_simulated_review,
            "n": items,
            "epochs": epochs.get(kind),
        }
        target.write_text(fill_in(files("training").joinpath(f"template/{kind}.yaml").read_text(), changes))
        load_run_file(target)
    return written


def fill_in(text: str, changes: dict[str, Any]) -> str:
    """The template with some values replaced; comments stay. A value of None leaves the template's own, NOTHING takes the key out."""
    for key, value in changes.items():
        if value is None:
            continue
        if value == NOTHING:
            text = re.sub(rf"(?m)^\s*{key}: .*\n", "", text, count=1)
            continue
        written = yaml.safe_dump(value, default_flow_style=True, width=10_000).removesuffix("...\n").strip()
        text, count = re.subn(rf"(?m)^(\s*{key}: ).*$", lambda m, w=written: m[1] + w, text, count=1)  # type: ignore[misc]
        if not count:
            raise ValueError(f"the template has no key {key}")
    return text


def find_snapshot_name(folder: Path, kind: str) -> str:
    """The name of a project's snapshots of one kind; several names are a question for the person."""
    from curation.snapshot import find_snapshots, read_manifest

    names = sorted({m.name for m in map(read_manifest, find_snapshots(folder)) if m.kind == kind})
    if not names:
        raise TrainingError(str(folder), f"holds no {kind} snapshot", command("curate", "snapshot", folder.parent, "--kind", kind))
    if len(names) > 1:
        raise TrainingError(str(folder), f"holds {kind} snapshots of several names: {', '.join(names)}", "write the run files by hand")
    return names[0]


def _find_one(folder: Path, pattern: str, *, what: str) -> Path:
    found = sorted(folder.glob(pattern)) if folder.is_dir() else []
    if len(found) != 1:
        names = ", ".join(p.name for p in found)
        fact = f"holds no {what}" if not found else f"holds more than one {what}: {names}"
        raise TrainingError(str(folder), fact, "name the one to evaluate on with --eval")
    return found[0]
