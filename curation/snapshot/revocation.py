"""Revocations: signed statements, kept outside a snapshot's folder, that name its digest.

A statement that names the digest stops the snapshot even when the statement's signature is invalid: whoever can write a statement
could delete the snapshot as well, and a damaged statement must not make a revoked snapshot usable.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from curation.errors import SnapshotError
from curation.records import canonical_json
from curation.snapshot.keys import config_folder, fingerprint, load_private_key, load_public_key
from curation.snapshot.write import replace_file

FOLDER = "revocations"
_CONTEXT = b"seedcorn-revocation-v1\n"
"""Prefix that is signed with the statement, so that a signature made for another purpose never passes as a revocation."""


class Revocation(BaseModel):
    """Statement that revokes a snapshot: its digest, the reason, the time and the signer."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    digest: str = Field(pattern=r"^[0-9a-f]{64}$")
    reason: str = Field(min_length=1)
    at: AwareDatetime
    by: str
    """Fingerprint of the signing key."""
    signature: str = ""
    """ECDSA over the other fields, base64."""

    def statement(self) -> bytes:
        """Return the bytes that are signed."""
        return _CONTEXT + canonical_json(self.model_dump(mode="json", exclude={"signature"}))


def revoke(digest: str, private_key: Path, *, reason: str, at: datetime, folder: Path | None = None) -> Path:
    """Write a signed revocation and return its file.

    Args:
        digest: digest root of the snapshot.
        private_key: PEM file of the signing key.
        reason: the reason, for people.
        at: the time of the revocation.
        folder: folder to write to; the user's own if None.
    """
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec

    key, target = load_private_key(private_key), folder or config_folder() / FOLDER
    try:
        draft = Revocation(digest=digest, reason=reason, at=at, by=fingerprint(key.public_key()))
    except ValidationError as error:
        first = error.errors()[0]
        raise SnapshotError(f"revocation.{first['loc'][0]}", first["msg"]) from error
    # Raw ECDSA instead of model-signing, whose signatures cover folders.
    signature = base64.b64encode(key.sign(draft.statement(), ec.ECDSA(hashes.SHA256()))).decode()
    target.mkdir(parents=True, exist_ok=True)
    # The key is part of the name: two signers may revoke one snapshot.
    file = target / f"{digest[:16]}-{draft.by.removeprefix('sha256:')[:8]}.json"
    body = draft.model_copy(update={"signature": signature}).model_dump_json(indent=2) + "\n"
    return replace_file(file, body.encode())


def read_revocation(file: Path) -> Revocation:
    """Parse one revocation; its signature is not checked."""
    try:
        return Revocation.model_validate_json(file.read_bytes())
    except (ValidationError, OSError) as error:
        fact = "cannot be read as a revocation, so the snapshot it revokes is unknown"
        raise SnapshotError(str(file), fact, "restore the file, or remove it") from error


def find_revocation(digest: str, *, trusted_keys: Sequence[Path], folders: Sequence[Path] | None, snapshot: Path) -> str | None:
    """Return a sentence if a revocation names the digest or cannot be read; None if no revocation applies.

    A folder or a file that cannot be read counts as a revocation, because it may name this snapshot.

    Args:
        digest: digest root of the snapshot.
        trusted_keys: keys whose statements are reported without a doubt; other statements stop the snapshot too.
        folders: folders to search; by default the user's own and the one next to the snapshot.
        snapshot: the snapshot's folder. A relative path or a link is resolved.
    """
    # A link is looked up at both ends: the statement may have been put next to the link or next to what it names.
    parents = dict.fromkeys((snapshot.absolute().parent, snapshot.resolve().parent))
    places = list(folders) if folders is not None else [config_folder() / FOLDER, *(parent / FOLDER for parent in parents)]
    for place in places:
        try:
            files = sorted(file for file in place.iterdir() if file.suffix == ".json" and not file.name.startswith("."))
        except OSError as error:
            if isinstance(error, FileNotFoundError) and not place.is_symlink():
                continue
            return f"may be revoked: the revocations in {place} cannot be read ({error.strerror})"
        for file in files:
            try:
                found = read_revocation(file)
            except SnapshotError:
                return f"may be revoked: the revocation {file} cannot be read"
            if found.digest == digest:
                doubt = "" if _is_signed(found, trusted_keys) else ", in a statement that no trusted key signed"
                return f"was revoked on {found.at:%Y-%m-%d} by {found.by[:19]}{doubt}: {found.reason} ({file})"
    return None


def _is_signed(revocation: Revocation, trusted_keys: Sequence[Path]) -> bool:
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec

    for key in (load_public_key(file) for file in trusted_keys):
        try:
            key.verify(base64.b64decode(revocation.signature, validate=True), revocation.statement(), ec.ECDSA(hashes.SHA256()))
        except (InvalidSignature, binascii.Error):
            continue
        return True
    return False
