"""Restore the project state that reproduces a snapshot, as a new project.

The new project has the same database, settings, protected sets and tables. Overrides keep exactly the snapshot's rows and drop all others,
and the splits are those of the snapshot, so that `curate snapshot` gives the same digest there.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from argilla_setup.shown import mask_values
from curation.actor import actor_name
from curation.config.project import settings_digest
from curation.errors import ProjectError, SnapshotError, command
from curation.records import InstructionRecord, parse_record
from curation.snapshot.digest import read_rows_of
from curation.snapshot.keys import find_trusted_keys
from curation.snapshot.manifest import SPLITS, find_snapshots
from curation.snapshot.verify import Snapshot, load_snapshot
from curation.snapshot.withdrawal import withdrawn_rows
from curation.stages.verdicts import update_verdicts
from curation.store import facts, records, runs
from curation.store.database import copy_store
from curation.workspace import StageResult, Workspace, open_workspace

LEFT_BEHIND = ("workbench.db", "snapshots", "runs", "serve", "imports", "report.html", "serve.token", "log")
"""What is not copied: the database is copied on its own, and the rest belongs to the project as it is now."""


def restore(folder: Path, version: str, out: Path) -> StageResult:
    """Write a new project whose next snapshot has the rows and splits of an earlier one.

    Args:
        folder: the project.
        version: name of the snapshot's folder, its beginning, or a version such as v3 where only one kind has it.
        out: the new project's folder; it must not exist.

    Raises:
        SnapshotError: there is no such snapshot, it may not be used, or some of its rows are withdrawn or erased.
        ProjectError: the new folder exists or cannot be written.
    """
    path = _find(folder, version)
    found = load_snapshot(path, trusted_keys=find_trusted_keys(), deep=True)
    if out.exists():
        raise ProjectError(str(out), "exists already", "name a new folder with --out")
    aside = out.with_name(f".{out.name}.partial")
    shutil.rmtree(aside, ignore_errors=True)
    try:
        skip = shutil.ignore_patterns(*LEFT_BEHIND, "workbench.db*", "*.lock", ".*")
        shutil.copytree(folder, aside, ignore=skip)
        with open_workspace(folder) as workspace:
            copy_store(workspace.db, aside)
        with open_workspace(aside) as workspace:
            same_settings = _restore_rows(workspace, found, withdrawn_rows(folder / "snapshots"))
        aside.rename(out)
    except OSError as error:
        raise ProjectError(str(out), f"cannot be written ({error.strerror})", "name another folder with --out") from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    manifest = found.manifest
    counts = {"project": str(out), "snapshot": path.name, "digest": manifest.digest.root}
    notes = [f"Next: {command('curate', 'snapshot', out, '--kind', manifest.kind)}. It gives digest {manifest.digest.root[:12]}."]
    if not same_settings:
        notes.append(
            f"project.yaml has changed since {path.name} was written. If the digest differs, restore that file from version control."
        )
    return StageResult("restore", manifest.rows, manifest.rows, counts, notes)


def _find(folder: Path, version: str) -> Path:
    """Return the snapshot that a version names."""
    every = find_snapshots(folder / "snapshots")
    number = re.fullmatch(r"v?(\d+)", version)
    exact = [path for path in every if path.name == version]
    found = exact or [path for path in every if (f"-v{number[1]}-" in path.name if number else path.name.startswith(version))]
    if len(found) != 1:
        names = ", ".join(path.name for path in (found or every)) or "there is none"
        fact = f"names {len(found)} snapshots ({names})" if found else f"names no snapshot of this project ({names})"
        raise SnapshotError(f"version {version[:80]}", fact, command("curate", "list", folder))
    return found[0]


def _restore_rows(workspace: Workspace, found: Snapshot, withdrawn: set[str]) -> bool:
    """Keep the snapshot's rows and drop all others; return whether project.yaml is as it was for the snapshot."""
    db, kind = workspace.db, found.manifest.kind
    seq_of = {identity: seq for seq, identity in records.ids_of(db).items()}
    choices, splits, gone = dict[int, str | None](), dict[int, str](), list[str]()
    for split in SPLITS:
        for row in read_rows_of(found.table(split), kind):
            seq = seq_of.get(row["id"])
            body = None if seq is None else records.load_row(db, seq)["record"]
            if seq is None or body is None or row["id"] in withdrawn:
                gone.append(row["id"])
                continue
            record = parse_record(body)
            if isinstance(record, InstructionRecord):
                choices[seq] = "approve"
            else:
                choices[seq] = "first" if record.completions[0].content == row["chosen"][0]["content"] else "second"
            splits[seq] = split
    if gone:
        fact = f"cannot be restored: {len(gone):,} of its rows are withdrawn, erased or not in the project ({gone[0][:12]}, ...)"
        raise SnapshotError(str(found.path), fact, "use the snapshot itself, or write a new one without these rows")
    others = [seq for seq, its_kind in records.kinds_by_seq(db).items() if its_kind == kind and seq not in choices]
    reason = f"restored {found.path.name}"
    with runs.record_run(db, "restore", found.manifest.digest.root) as run:
        facts.replace_splits(db, splits, run.number)
        for choice in sorted(set(choices.values()), key=str):
            seqs = [seq for seq, one in choices.items() if one == choice]
            facts.add_overrides(db, seqs, action="keep", reason=reason, by=actor_name(), choice=choice)
        facts.add_overrides(db, others, action="drop", reason=reason, by=actor_name())
        run.rows_in = run.rows_out = len(choices)
    update_verdicts(workspace)
    return _settings_of(workspace) == found.manifest.settings.project


def _settings_of(workspace: Workspace) -> str:
    return settings_digest(mask_values(workspace.project.model_dump(mode="json")))
