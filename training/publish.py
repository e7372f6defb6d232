"""Publish a signed adapter, by the transport of snapshots, after every snapshot behind it was verified again."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from curation.errors import command
from training.adapter import ADAPTER
from training.callbacks import Say
from training.config import RunFile
from training.errors import TrainingError
from training.release import verify_sources
from training.run_folder import require_finished


class PublishedAdapter(BaseModel):
    """The result of publishing, or of a dry run."""

    model_config = ConfigDict(frozen=True)

    url: str
    """Address of the adapter; of a dry run the target."""
    adapter_digest: str
    files: dict[str, int]
    """Path at the target to bytes."""
    sent: tuple[str, ...]
    """Files that were sent; the others were there already."""
    conditions: dict[str, str]
    """Conditions of the licenses that apply to the adapter, by what they come from."""
    dry_run: bool


def publish_run(
    run: RunFile, target: str, *, public: bool = False, dry_run: bool = False, say: Say = lambda text: None
) -> PublishedAdapter:
    """Publish the adapter of a finished run.

    Args:
        run: the finished run.
        target: hf://ORG/NAME, or the URL of a folder.
        public: the repository on the Hub may be public.
        dry_run: list the files and the conditions only.
        say: prints progress.

    Raises:
        TrainingError: the adapter is not signed by a trusted key.
        SnapshotError: a snapshot behind it may not be used, or the target cannot be written.
    """
    from curation.snapshot.hub import is_hub, lay_out, parse_address, send_to_hub
    from curation.snapshot.keys import find_trusted_keys
    from curation.snapshot.transport import list_folder, send_folder
    from curation.snapshot.verify import verify_folder

    done = require_finished(run)
    verify_sources(run, done)
    folder = run.output / ADAPTER
    found = verify_folder(folder, [*run.trusted_keys, *find_trusted_keys()])
    if not found.is_verified:
        problem = found.problems[0].fact if found.problems else found.status
        raise TrainingError(
            str(folder), f"is not published: its signature is not verified ({problem})", command("train", "sign", run.output)
        )
    name = run.output.name
    listing = list_folder(
        folder, content="adapter", name=name, digest=done.adapter_digest, folder=f"{name}-{done.adapter_digest[:8]}"
    )  # fmt: skip
    on_hub = is_hub(target)
    if on_hub:
        parse_address(target, content="adapter")
        listing = lay_out(listing)
    files = {part.at: part.size for part in listing.parts}
    url = target
    sent: tuple[str, ...] = ()
    if not dry_run:
        sending = send_to_hub(folder, target, listing, public=public, say=say) if on_hub else send_folder(folder, target, listing, say=say)
        url, sent = sending.url, sending.sent
    return PublishedAdapter(
        url=url, adapter_digest=done.adapter_digest, files=files, sent=sent, conditions=done.conditions, dry_run=dry_run
    )  # fmt: skip


def published_text(found: PublishedAdapter) -> str:
    """Return the result as text."""
    lines = [f"  {name}  {size:,} bytes" for name, size in found.files.items()]
    lines += [f"  license condition ({what}): {text}" for what, text in found.conditions.items()]
    if found.dry_run:
        return "\n".join([f"{found.url}: {len(found.files)} files of adapter {found.adapter_digest[:12]} would be sent", *lines])
    state = f"{len(found.sent)} files sent" if found.sent else "holds the same files already"
    return "\n".join([f"{found.url}: {state}, adapter {found.adapter_digest[:12]}", *lines])
