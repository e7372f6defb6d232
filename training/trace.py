"""From an adapter back to the signed rows it was trained on, and the adapter's own signature."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

from training.config import RunFile, TrainingError
from training.data import Split, open_snapshot, read_rows
from training.folder import ADAPTER, read_json, require_run


def trace_run(run: RunFile, *, row_id: str | None = None) -> dict[str, Any]:
    """What a run was made of, each part checked again; with `row_id`, that row as the trainer saw it."""
    done = require_run(run.output)
    snapshot = open_snapshot(run, run.output / done["snapshot"]["path"], kind=done["snapshot"]["kind"])
    if snapshot.manifest.digest.root != done["snapshot"]["digest"]:
        raise TrainingError(
            str(snapshot.path), "is not the snapshot this adapter was trained on", f"its digest is {done['snapshot']['digest'][:12]}"
        )
    result = {
        "run": str(run.output),
        "kind": done["kind"],
        "adapter_digest": done["adapter_digest"],
        "adapter_signed": (run.output / ADAPTER / "model.sig").is_file(),
        "base": done["base"],
        "snapshot": {**done["snapshot"], "path": str(snapshot.path)},
    }
    if done["kind"] == "dpo":
        sft = read_json(run.output / done["sft_run"] / "run.json")
        result["sft_run"] = {"path": str((run.output / done["sft_run"]).resolve()), "adapter_digest": sft["adapter_digest"]}
        result["reference_digest"] = done["reference_digest"]
    rows = {split: read_rows(snapshot, split) for split in get_args(Split)}
    if row_id is None:
        return result | {"row_ids": {split: [row["id"] for row in found] for split, found in rows.items() if split != "test"}}
    return result | {"row": _find_row(rows, row_id, snapshot.path)}


def sign_run(run: RunFile, *, key: Path | None = None) -> dict[str, Any]:
    """Sign the adapter folder with OpenSSF Model Signing, as snapshots are signed."""
    from curation.snapshot import config_folder, sign_folder

    done = require_run(run.output)
    private = key or config_folder() / "keys" / "signing.pem"
    if not private.is_file():
        raise TrainingError(str(private), "no signing key is there", "curate key --help")
    signature = sign_folder(run.output / ADAPTER, private)
    return {"signature": str(signature), "adapter_digest": done["adapter_digest"]}


def trace_text(result: Mapping[str, Any]) -> str:
    """The trace, newest first."""
    snapshot, base = result["snapshot"], result["base"]
    signed = ", signed" if result["adapter_signed"] else ""
    lines = [f"adapter {result['adapter_digest'][:12]} ({result['kind']}{signed}): unchanged since it was trained"]
    if "sft_run" in result:
        lines.append(
            f"  from the SFT adapter {result['sft_run']['adapter_digest'][:12]} in {result['sft_run']['path']}, its frozen reference"
        )
    lines.append(f"  on {base['id']} {base['digest'][:12]} ({base['licence']})")
    lines.append(f"  with snapshot {snapshot['name']} v{snapshot['version']} {snapshot['digest'][:12]} in {snapshot['path']}")
    if row := result.get("row"):
        lines.append(f"row {row['id']} ({row['split']})")
        lines += [
            f"  {turn['role']}: {turn['content']}" for key in ("prompt", "completion", "chosen", "rejected") for turn in row.get(key, ())
        ]
        return "\n".join([*lines, f"Next: curate trace {row['id'][:12]}"])
    return "\n".join([*lines, f"  rows: {', '.join(f'{len(ids)} {split}' for split, ids in result['row_ids'].items())}; ids with --json"])


def _find_row(rows: Mapping[str, list[dict[str, Any]]], row_id: str, path: Path) -> dict[str, Any]:
    found = [{"split": split, **row} for split, split_rows in rows.items() for row in split_rows if str(row["id"]).startswith(row_id)]
    if len(found) != 1:
        fact = f"no row's id starts with {row_id}" if not found else f"{len(found)} rows' ids start with {row_id}"
        raise TrainingError(str(path), fact, "train trace RUN --json lists the ids")
    return found[0]
