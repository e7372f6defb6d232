"""Prove that a row is in a snapshot: the hashes from the row to the digest that the signed manifest states (snapshot/digest.py)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

from curation.errors import ProjectError, SnapshotError, command
from curation.records import canonical_json
from curation.snapshot.digest import inclusion_path, leaf_of, read_rows_of, top_of, tree_of
from curation.snapshot.keys import find_trusted_keys
from curation.snapshot.manifest import SPLITS
from curation.snapshot.verify import load_snapshot
from curation.snapshot.write import replace_file
from curation.workspace import StageResult


def prove(identity: str, snapshot: Path, *, out: Path | None = None, keys: Sequence[Path] = ()) -> StageResult:
    """Write the inclusion proof of a row. It holds that row and hashes, and no other row.

    Args:
        identity: the record's id, or its first characters.
        snapshot: the snapshot's folder.
        out: the file to write; proof-ID.json in the current folder if None.
        keys: public keys to trust in addition to the user's store.

    Raises:
        SnapshotError: the snapshot may not be used, or no row or several rows have such an id.
        ProjectError: the file cannot be written.
    """
    found = load_snapshot(snapshot, trusted_keys=[*keys, *find_trusted_keys()])
    kind = found.manifest.kind
    leaves: dict[str, list[bytes]] = {}
    hits = []
    for split in SPLITS:
        leaves[split] = []
        for row in read_rows_of(found.table(split), kind):
            if str(row["id"]).startswith(identity.lower()):
                hits.append((split, len(leaves[split]), row))
            leaves[split].append(leaf_of(row))
    if len(hits) != 1:
        fact = "holds several rows whose ids start so" if hits else "holds no such row"
        step = "name the whole id" if hits else "`curate affected` lists the snapshots that hold a row"
        raise SnapshotError(f"{snapshot}: row {identity[:80]!r}", fact, step)
    split, index, row = hits[0]
    top = top_of({split: tree_of(own) for split, own in leaves.items()}, kind)
    digest, path = found.manifest.digest.root, inclusion_path(leaves[split], index)
    if hashlib.sha256(b"\x02" + canonical_json(top)).hexdigest() != digest:
        raise SnapshotError(str(snapshot), "has another digest than its rows give", command("curate", "verify", snapshot, "--deep"))
    proof = {
        "snapshot": f"{found.manifest.name} v{found.manifest.version}", "digest": digest, "signer": found.signer, "split": split,
        "index": index, "row": row, "path": path, "top": top,
    }  # fmt: skip
    file = out or Path(f"proof-{str(row['id'])[:12]}.json")
    try:
        replace_file(file, (json.dumps(proof, ensure_ascii=False, indent=2) + "\n").encode())
    except OSError as error:
        raise ProjectError(str(file), f"cannot be written ({error.strerror})", "name another file with --out") from error
    counts = {"id": row["id"], "split": split, "hashes": len(path), "digest": digest, "file": str(file)}
    return StageResult("prove", 1, 1, counts, ["The file holds the row's text. docs/withdrawal.md has a script that checks it."])
