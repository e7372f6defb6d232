"""Write a run file of each method for a project from the templates in `training/template/`; comments in the templates are kept."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml

from curation.errors import command
from training.config import TrainingError, load_run_file, run_file_schema, schema_file
from training.methods import METHODS
from training.run_folder import relative

REMOVED = "\0"
"""Value that removes a key from a template."""


@dataclass(frozen=True)
class InitOptions:
    """Values that replace those of the templates."""

    keys: Sequence[Path] = ()
    """Public keys whose snapshots are trusted."""
    epochs: Mapping[str, float | None] = field(default_factory=dict)
    """By method."""
    evaluation: Path | None = None
    """The protected set to evaluate on, if the project has several."""
    items: int | None = None
    """Number of lines of it."""
    allow_simulated_review: bool = False


def write_run_files(
    folder: Path,
    *,
    project: Path,
    model: Path,
    options: InitOptions = InitOptions(),
) -> dict[str, str]:
    """Write FOLDER/METHOD.yaml for the newest snapshots of a project, and its JSON Schema; existing run files are kept.

    Args:
        folder: the folder for the run files.
        project: the project folder with its snapshots, protected sets and tables.
        model: the base model's checkpoint folder.
        options: values that replace those of the templates.

    Returns:
        The file of each method.
    """
    if not project.is_dir():
        raise TrainingError(f"project {project}", "does not exist", "name the folder that curate init made")
    names = {kind: find_snapshot_name(project / "snapshots", kind) for kind in sorted({m.rows for m in METHODS.values()})}
    evaluation = options.evaluation or _find_protected(project / "protected")
    tables = sorted((project / "tables").glob("*.parquet")) if (project / "tables").is_dir() else []
    folder.mkdir(parents=True, exist_ok=True)
    written: dict[str, str] = {}
    for kind, method in METHODS.items():
        (folder / schema_file(kind)).write_text(json.dumps(run_file_schema(kind), indent=2) + "\n", encoding="utf-8")
        target = folder / f"{kind}.yaml"
        written[kind] = str(target)
        if target.exists():
            load_run_file(target)
            continue
        changes: dict[str, Any] = {
            "snapshot": relative(project / "snapshots" / names[method.rows], folder) + "@latest",
            "base_model": relative(model, folder),
            "file": relative(evaluation, folder),
            "preference_snapshot": relative(project / "snapshots" / names["preference"], folder) + "@latest",
            "table": relative(tables[0], folder) if tables else REMOVED,
            "trusted_keys": [relative(key, folder) for key in options.keys],
            "allow_simulated_review": options.allow_simulated_review,
            "n": options.items,
            "epochs": options.epochs.get(kind),
        }
        target.write_text(fill_in(files("training").joinpath(f"template/{kind}.yaml").read_text(), changes))
        load_run_file(target)
    return written


def fill_in(text: str, changes: Mapping[str, Any]) -> str:
    """Return the template with values replaced and comments kept; None keeps the template's value and REMOVED removes the key."""
    for key, value in changes.items():
        if value is None:
            continue
        if value == REMOVED:
            text = re.sub(rf"(?m)^\s*{key}: .*\n", "", text, count=1)
            continue
        written = yaml.safe_dump(value, default_flow_style=True, width=10_000).removesuffix("...\n").strip()
        text, count = re.subn(rf"(?m)^(\s*{key}: ).*$", lambda m, w=written: m[1] + w, text, count=1)  # type: ignore[misc]
        if not count:
            raise ValueError(f"the template has no key {key}")
    return text


def find_snapshot_name(folder: Path, kind: str) -> str:
    """Return the name of a project's snapshots of one kind; refuse several names, because only the user knows which one is meant."""
    from curation.snapshot import find_snapshots, read_manifest

    names = sorted({m.name for m in map(read_manifest, find_snapshots(folder)) if m.kind == kind})
    if not names:
        raise TrainingError(str(folder), f"holds no {kind} snapshot", command("curate", "snapshot", folder.parent, "--kind", kind))
    if len(names) > 1:
        raise TrainingError(str(folder), f"holds {kind} snapshots of several names: {', '.join(names)}", "write the run files by hand")
    return names[0]


def _find_protected(folder: Path) -> Path:
    """Return the only protected set of a project."""
    found = sorted(folder.glob("*.jsonl")) if folder.is_dir() else []
    if len(found) != 1:
        names = ", ".join(p.name for p in found)
        fact = "holds no protected set" if not found else f"holds more than one protected set: {names}"
        raise TrainingError(str(folder), fact, "name the one to evaluate on with --eval")
    return found[0]
