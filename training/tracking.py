"""Experiment trackers: TensorBoard, Weights & Biases and trackio, in addition to metrics.jsonl.

A run in W&B or trackio has the name of its snapshot, the digests of everything it was made from, the snapshot's manifest and certificate as
an artifact, and a table of each evaluation. A resumed run and its evaluations join the run that they belong to.
"""

from __future__ import annotations

import hashlib
import json
import netrc
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from curation.snapshot.manifest import MANIFEST, SIGNATURE
from training.config import RunFile
from training.ranks import is_main
from training.records import PreflightReport, RunRecord
from training.results import EvaluationResult

TENSORBOARD = "tensorboard"
"""Folder of TensorBoard's events in the run folder."""
CERTIFICATE = "certificate.json"
EVALUATION = ("metric", "value", "low", "high", "n")
"""Columns of the table of an evaluation, followed by a column for each model that it was compared with."""


@dataclass(frozen=True)
class Tracking:
    """The description of a run for an experiment tracker."""

    name: str
    project: str
    id: str
    """Equal for a resumed run, so that the tracker continues it."""
    config: dict[str, dict[str, str]]
    snapshot: Path | None = None
    """Snapshot whose manifest, signature and certificate are an artifact of the run; None for a rehearsal."""


def describe_tracking(run: RunFile, report: PreflightReport) -> Tracking:
    """Describe a run for Weights & Biases and trackio, with the snapshot in its name and its digest in the configuration.

    WANDB_PROJECT sets the project; by default it is the snapshot's name without its kind.
    """
    snapshot, base = report.snapshot, report.base
    # The same run folder, settings and rows give the same id, so that a tracker joins a resumed run to its beginning.
    identity = f"{run.output.resolve()} {run.digest} {snapshot.digest}"
    facts: dict[str, str] = {
        "kind": run.kind,
        "use": run.use,
        "snapshot": f"{snapshot.name} v{snapshot.version}",
        "snapshot_digest": snapshot.digest,
        "base_model": base.id,
        "base_digest": base.digest,
        "config_digest": run.digest,
    }
    folder = (run.output / snapshot.path).resolve()
    if (certificate := folder / CERTIFICATE).is_file():
        # The snapshot was verified with its certificate; the policy in words is in the manifest.
        review = json.loads((folder / MANIFEST).read_text())["review"]
        facts |= {
            "certificate_sha256": hashlib.sha256(certificate.read_bytes()).hexdigest(),
            "certificate": str(review.get("accept") or ""),
        }
    if sft := report.sft_run:
        facts |= {"sft_adapter_digest": sft.adapter_digest, "sft_snapshot_digest": sft.digest}
    return Tracking(
        name=f"{run.output.name}-{snapshot.name}-v{snapshot.version}-{snapshot.digest[:8]}",
        project=os.environ.get("WANDB_PROJECT") or snapshot.name.removesuffix(f"-{snapshot.kind}"),
        id=hashlib.sha256(identity.encode()).hexdigest()[:16],
        config={"seedcorn": facts},
        snapshot=folder,
    )


def logger_callbacks(run: RunFile, tracking: Tracking | None) -> list[Any]:
    """Return the callbacks of the run file's logger, or none without `tracking`. TensorBoard's events stay in the run folder."""
    if tracking is None or run.logger == "none" or not is_main():
        return []
    described: Tracking = tracking
    from transformers import TrainerCallback
    from transformers import integrations as library

    integrations: Any = library  # the classes are untyped
    if run.logger == "tensorboard":
        return [_tensorboard_callback(run.output / TENSORBOARD, integrations.TensorBoardCallback)]

    class Begin(TrainerCallback):
        """Start the run: transformers' callback for W&B sets neither project nor configuration and uses a run that is open."""

        def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            import wandb

            if wandb.run is None:
                open_wandb(described, run.output)
                log_snapshot(wandb, described, state.global_step)

    class Describe(TrainerCallback):
        """Add configuration and snapshot: transformers' callback for trackio always starts the run itself."""

        def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            import trackio

            trackio.config.update(described.config, allow_val_change=True)
            log_snapshot(trackio, described, state.global_step)

    class End(TrainerCallback):
        def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            import wandb

            wandb.finish()

    # In this order: what opens the run comes first.
    return [integrations.TrackioCallback(), Describe()] if run.logger == "trackio" else [Begin(), integrations.WandbCallback(), End()]


def open_wandb(tracking: Tracking, folder: Path) -> Any:
    """Start the run in W&B, or join it."""
    import wandb

    named = {"project": tracking.project, "name": tracking.name, "id": tracking.id, "config": tracking.config}
    return wandb.init(**named, resume="allow", dir=str(folder))


def log_snapshot(tracker: Any, tracking: Tracking, step: int) -> None:
    """Add the snapshot to a run as an artifact: manifest, signature and certificate, whose digests name every row.

    Args:
        tracker: the module wandb or trackio.
        tracking: description of the run.
        step: steps taken so far; the artifact of a resumed run exists already.
    """
    if tracking.snapshot is None or step:
        return
    facts = tracking.config["seedcorn"]
    name = facts["snapshot"].replace(" ", "-")
    artifact = tracker.Artifact(name=name, type="dataset", metadata=dict(facts))
    for file in (MANIFEST, SIGNATURE, CERTIFICATE):
        if (tracking.snapshot / file).is_file():
            artifact.add_file(str(tracking.snapshot / file))
    tracker.log_artifact(artifact)


def log_evaluation(run: RunFile, report: PreflightReport, done: RunRecord, result: EvaluationResult) -> None:
    """Add an evaluation to the tracker's run: its metrics as numbers, and a table with intervals and differences.

    Args:
        run: the run file.
        report: preflight.json.
        done: run.json.
        result: the evaluation.
    """
    tracking, columns, rows = describe_tracking(run, report), *evaluation_table(result)
    numbers = {f"evaluation/{result.file.set}/{name}": metric.value for name, metric in result.metrics.items()}
    if run.logger == "tensorboard":
        from torch.utils.tensorboard import SummaryWriter

        with SummaryWriter(str(run.output / TENSORBOARD)) as writer:  # type: ignore[no-untyped-call]
            for name, value in numbers.items():
                writer.add_scalar(name, value, done.steps)  # type: ignore[no-untyped-call]
            lines = [columns, ["---"] * len(columns), *([str(cell) for cell in row] for row in rows)]
            text = "\n".join(f"| {' | '.join(line)} |" for line in lines)
            writer.add_text(f"evaluation/{result.file.set}", text, done.steps)  # type: ignore[no-untyped-call]
    elif run.logger == "wandb":
        import wandb

        with open_wandb(tracking, run.output) as opened:
            opened.summary.update(numbers)
            opened.log({f"evaluation/{result.file.set}/table": wandb.Table(columns=columns, data=rows)})
    elif run.logger == "trackio":
        import trackio

        trackio.init(project=tracking.project, name=tracking.name, resume="allow", embed=False)
        trackio.log({**numbers, f"evaluation/{result.file.set}/table": trackio.Table(columns=columns, data=rows)})
        trackio.finish()


def evaluation_table(result: EvaluationResult) -> tuple[list[str], list[list[Any]]]:
    """Return columns and rows of the table of an evaluation, one row a metric."""
    columns = [*EVALUATION, *(f"minus {other}" for other in result.against)]
    rows = []
    for name, metric in result.metrics.items():
        others = [found.get(name) for found in result.against.values()]
        differences = [f"{other.difference:+.3f}, {other.verdict}" if other else "" for other in others]
        rows.append([name, metric.value, metric.low, metric.high, metric.n, *differences])
    return columns, rows


def wandb_host() -> str:
    """Return the host of the configured W&B server."""
    return urlsplit(os.environ.get("WANDB_BASE_URL") or "https://api.wandb.ai").hostname or "api.wandb.ai"


def has_wandb_login() -> bool:
    """Return whether W&B can start a run without a prompt: a key, an entry in .netrc, an identity token, or a mode without login."""
    if os.environ.get("WANDB_MODE", "").lower() in ("offline", "disabled", "dryrun", "shared"):
        return True
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    homes = [os.environ["NETRC"]] if os.environ.get("NETRC") else ["~/.netrc", "~/_netrc"]
    files = [path for path in (Path(home).expanduser() for home in homes) if path.is_file()]
    try:
        return any(netrc.netrc(str(path)).authenticators(wandb_host()) for path in files)
    except netrc.NetrcParseError:
        return False


def _tensorboard_callback(folder: Path, library_callback: Any) -> Any:
    """Return transformers' callback with its events in the run folder; by default they are among the checkpoints, which are deleted.

    A resumed run takes some steps again, so the events of the killed process for those steps are purged.
    """

    class RunFolderCallback(library_callback):  # type: ignore[misc]
        def on_train_begin(self, args: Any, state: Any, control: Any, **more: Any) -> None:
            self.logging_dir = str(folder)
            if state.global_step:
                self.tb_writer = self._SummaryWriter(log_dir=self.logging_dir, purge_step=state.global_step + 1)
            super().on_train_begin(args, state, control, **more)

    return RunFolderCallback()
