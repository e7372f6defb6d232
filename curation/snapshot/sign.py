"""Sign a folder with OpenSSF Model Signing, so that anyone can check it with the public tool:

    model_signing verify key FOLDER --signature FOLDER/model.sig --public_key KEY.pub

The signature covers every file but itself, files named .gitignore and the like included; for a folder that has such files the
public tool needs --no-ignore-git-paths. A snapshot never has them.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from curation.errors import SnapshotError, command
from curation.snapshot.manifest import MANIFEST, parse_manifest, read_manifest_bytes
from curation.snapshot.signature import sign_folder


def sign_snapshot(path: Path, private_key: Path, *, replace: bool = False) -> Path:
    """Sign a snapshot that is intact, down to the digest; what does not agree with its manifest is never signed."""
    from curation.snapshot.verify import find_problems

    body = read_manifest_bytes(path)
    manifest = parse_manifest(body, file=path / MANIFEST)
    if problems := find_problems(path, manifest, deep=True):
        raise SnapshotError(str(path / problems[0].file), f"{problems[0].fact}; it was not signed", command("curate", "verify", path))
    checked = {MANIFEST: hashlib.sha256(body).hexdigest(), **manifest.files}
    return sign_folder(path, private_key, replace=replace, expected=checked)
