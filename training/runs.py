"""The run folders beside one another: what each was made from, how far it is, and what was measured of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from training.config import TrainingError
from training.run_folder import CHECKPOINTS, EVAL, METRICS, PREFLIGHT, RUN, read_json

SHOWN = ("choice", "chapter", "exact_code", "valid_code", "preference", "preference_test", "likelihood", "exact_answer")


def find_runs(folder: Path) -> list[dict[str, Any]]:
    """One record a run folder below `folder`, by name."""
    if not folder.is_dir():
        raise TrainingError(str(folder), "is no folder", "name the folder that holds the run folders")
    runs = [_describe(path.parent) for path in sorted(folder.glob(f"*/{PREFLIGHT}"))]
    if not runs:
        raise TrainingError(str(folder), "holds no run folder", "train preflight RUN.yaml makes one")
    return runs


def overview_text(runs: Sequence[Mapping[str, Any]]) -> str:
    """A line for each run, and under it what was measured."""
    width = max(len(run["name"]) for run in runs)
    lines = []
    for run in runs:
        loss = f"  validation loss {run['best_eval_loss']:.4f} at step {run['best_step']}" if run["best_eval_loss"] is not None else ""
        lines.append(f"{run['name']:<{width}}  {run['kind']}  {run['state']:<9} {run['snapshot']}{loss}")
        measured = [f"{name} {run['metrics'][name]['value']:.3f}" for name in SHOWN if name in run["metrics"]]
        if measured:
            weights = f", {run['weights']}" if run["weights"] else ""
            lines.append(f"{'':<{width}}  {', '.join(measured)}  (n={max(m['n'] for m in run['metrics'].values())}{weights})")
    return "\n".join(lines)


def _describe(folder: Path) -> dict[str, Any]:
    checked = read_json(folder / PREFLIGHT)
    done = read_json(folder / RUN) if (folder / RUN).is_file() else None
    measured = read_json(folder / EVAL) if done and (folder / EVAL).is_file() else {}
    facts = done or {}
    return {
        "name": folder.name,
        "kind": checked["kind"],
        "state": "finished" if done else "begun" if (folder / CHECKPOINTS).is_dir() or (folder / METRICS).is_file() else "checked",
        "snapshot": f"{checked['snapshot']['name']} v{checked['snapshot']['version']}",
        **{key: facts.get(key) for key in ("steps", "best_eval_loss", "best_step", "early_stopped_at", "adapter_digest")},
        # Of an adapter that was trained again since, what was measured is of another.
        "weights": measured.get("weights"),
        "metrics": measured.get("metrics", {}) if measured.get("subject_digest") == facts.get("adapter_digest") else {},
    }
