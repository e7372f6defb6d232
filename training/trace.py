"""From an adapter back to the signed rows it was trained on, and the adapter's own signature."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from curation.errors import command
from training.config import RunFile, TrainingError
from training.data import Split, open_recorded, read_rows
from training.run_folder import ADAPTER, require_finished, require_run

if TYPE_CHECKING:
    from curation.snapshot import Snapshot


@dataclass(frozen=True)
class Source:
    """A snapshot whose rows are in the adapter, and the run that put them there."""

    run: str
    snapshot: Snapshot

    def rows(self) -> Iterator[dict[str, Any]]:
        """Every row with its split and where it comes from."""
        for split in get_args(Split):
            for row in read_rows(self.snapshot, split):
                yield {"run": self.run, "snapshot": str(self.snapshot.path), "split": split, **row}


def trace_run(run: RunFile, *, row_id: str | None = None) -> dict[str, Any]:
    """What a run was made of; adapters, signature and rows are checked again; with `row_id`, that row as the trainer saw it.

    A DPO adapter goes on from an SFT adapter, so the rows of both are in it.
    """
    done = require_finished(run)
    sources = verify_sources(run, done)
    result = {
        "run": str(run.output),
        "kind": done["kind"],
        "adapter_digest": done["adapter_digest"],
        "adapter_signed": (signature := _signature(run))["status"] == "verified",
        "signature": signature,
        "base": done["base"],
        "snapshot": {**done["snapshot"], "path": str(sources[0].snapshot.path)},
    }
    if done["kind"] == "dpo":
        sft = _require_reference(run, done)
        result["sft_run"] = {"path": str((run.output / done["sft_run"]).resolve()), "adapter_digest": sft["adapter_digest"]}
        result["sft_snapshot"] = {**sft["snapshot"], "path": str(sources[1].snapshot.path)}
        result["reference_digest"] = done["reference_digest"]
    rows = [row for source in sources for row in source.rows()]
    if row_id is not None:
        return result | {"row": _find_row(rows, row_id, run.output)}
    return result | {"row_ids": {kind: _ids(rows, kind) for kind in (source.run for source in sources)}}


def verify_sources(run: RunFile, done: Mapping[str, Any]) -> list[Source]:
    """Verify again every snapshot whose rows are in a finished adapter, revocations included; a DPO adapter has two.

    Raises:
        TrainingError: a snapshot or the SFT run is missing, or is another one.
        SnapshotError: a snapshot's signature does not hold or it was revoked.
    """
    sources = [Source(done["kind"], open_recorded(run, run.output, done))]
    if done["kind"] == "dpo":
        sft = _require_reference(run, done)
        sources.append(Source(sft["kind"], open_recorded(run, run.output / done["sft_run"], sft)))
    return sources


def sign_run(run: RunFile, *, key: Path | None = None) -> dict[str, Any]:
    """Sign the adapter folder, card included, with OpenSSF Model Signing, as snapshots are signed.

    The snapshots behind it are verified first, so that an adapter of revoked rows is not signed.

    Args:
        run: the finished run.
        key: the private key; by default your own.
    """
    from curation.snapshot import sign_folder
    from curation.snapshot.keys import own_key

    done = require_finished(run)
    if key is not None and not key.is_file():
        raise TrainingError(str(key), "does not exist", "name a private key with --key, or leave it out to sign with your own")
    verify_sources(run, done)
    signature = sign_folder(run.output / ADAPTER, key or own_key()[0])
    return {"signature": str(signature), "adapter_digest": done["adapter_digest"]}


def _require_reference(run: RunFile, done: Mapping[str, Any]) -> dict[str, Any]:
    """The SFT run of a DPO run, if its adapter is still the reference the DPO run had."""
    folder = run.output / done["sft_run"]
    sft = require_run(folder, kind="sft")
    if sft["adapter_digest"] != done["reference_digest"]:
        fact = f"was trained again since; its adapter is {sft['adapter_digest'][:12]}, the reference was {done['reference_digest'][:12]}"
        raise TrainingError(str(folder), fact, "put that SFT run back in its place")
    return sft


def _signature(run: RunFile) -> dict[str, Any]:
    """What the adapter's signature is worth to us: verified only by a key that is trusted here."""
    from curation.snapshot import find_trusted_keys, verify_folder

    found = verify_folder(run.output / ADAPTER, [*run.trusted_keys, *find_trusted_keys()])
    return {"status": found.status, "signer": found.signer, "problems": [str(problem) for problem in found.problems]}


def _ids(rows: list[dict[str, Any]], kind: str) -> dict[str, list[str]]:
    """Ids by split, of what was trained on or looked at while training."""
    return {split: [row["id"] for row in rows if row["run"] == kind and row["split"] == split] for split in ("train", "validation")}


def trace_text(result: Mapping[str, Any]) -> str:
    """The trace, newest first."""
    base, signature = result["base"], result["signature"]
    signed = {"verified": f"signed by {signature['signer']}", "unsigned": "not signed"}.get(
        signature["status"], f"signature: {signature['status']}"
    )
    lines = [f"adapter {result['adapter_digest'][:12]} ({result['kind']}, {signed}): unchanged since it was trained"]
    lines += [f"  {problem}" for problem in signature["problems"] if signature["status"] not in ("verified", "unsigned")]
    lines.append(f"  with {_snapshot_text(result['snapshot'])}")
    if "sft_run" in result:
        sft = result["sft_run"]
        lines.append(f"  from the SFT adapter {sft['adapter_digest'][:12]} in {sft['path']}, its frozen reference")
        lines.append(f"    with {_snapshot_text(result['sft_snapshot'])}")
    lines.append(f"  on {base['id']} {base['digest'][:12]} ({base['licence']})")
    if row := result.get("row"):
        lines.append(f"row {row['id']} ({row['split']} split of the {row['run']} rows)")
        lines += [
            f"  {turn['role']}: {turn['content']}" for key in ("prompt", "completion", "chosen", "rejected") for turn in row.get(key) or ()
        ]
        return "\n".join([*lines, f"Next: {command('curate', 'trace', _project_of(row), row['id'][:12])}"])
    counts = [f"{len(ids)} {kind} {split}" for kind, splits in result["row_ids"].items() for split, ids in splits.items()]
    return "\n".join([*lines, f"  rows: {', '.join(counts)}; ids with --json"])


def _snapshot_text(snapshot: Mapping[str, Any]) -> str:
    return f"snapshot {snapshot['name']} v{snapshot['version']} {snapshot['digest'][:12]} in {snapshot['path']}"


def _project_of(row: Mapping[str, Any]) -> str:
    """The project a snapshot lies in; its rows' stories are in that project's records."""
    project = Path(row["snapshot"]).resolve().parent.parent
    return str(project) if (project / "project.yaml").is_file() else "PROJECT"


def _find_row(rows: list[dict[str, Any]], row_id: str, path: Path) -> dict[str, Any]:
    found = [row for row in rows if str(row["id"]).startswith(row_id)]
    if len(found) != 1:
        fact = f"no row's id starts with {row_id}" if not found else f"{len(found)} rows' ids start with {row_id}"
        raise TrainingError(str(path), fact, f"{command('train', 'trace', path, '--json')} lists the ids")
    return found[0]
