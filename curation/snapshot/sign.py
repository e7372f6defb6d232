"""Sign a snapshot with OpenSSF Model Signing, so that anyone can verify it with the public tool:

    model_signing verify key FOLDER --signature FOLDER/model.sig --public_key KEY.pub

The signature covers every file except itself, including .gitignore and similar files; a folder with such files needs
--no-ignore-git-paths in the public tool. A snapshot never has them.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from curation.errors import SnapshotError, command
from curation.snapshot.manifest import MANIFEST, parse_manifest, read_manifest_bytes
from curation.snapshot.signature import sign_folder


def sign_snapshot(path: Path, private_key: Path, *, replace: bool = False) -> Path:
    """Sign an intact snapshot, checked down to the digest.

    Args:
        path: the snapshot's folder.
        private_key: PEM file of the signing key.
        replace: also replace the signature of another key.

    Raises:
        SnapshotError: the files differ from the manifest; nothing is signed.
    """
    from curation.snapshot.verify import find_problems

    body = read_manifest_bytes(path)
    manifest = parse_manifest(body, file=path / MANIFEST)
    if problems := find_problems(path, manifest, deep=True):
        raise SnapshotError(str(path / problems[0].file), f"{problems[0].fact}; it was not signed", command("curate", "verify", path))
    checked = {MANIFEST: hashlib.sha256(body).hexdigest(), **manifest.files}
    return sign_folder(path, private_key, replace=replace, expected=checked)
