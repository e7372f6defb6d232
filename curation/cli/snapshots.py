"""The commands on snapshots and keys."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from argilla_setup.command_line import echo
from curation.cli.app import Folder, Json, Key, Reason, SnapshotFolder, app, tell
from curation.cli.output import show_summary


@app.command(rich_help_panel="Freeze")
def snapshot(
    folder: Folder,
    kind: Annotated[Literal["instruction", "preference"], typer.Option(help="Which rows.")] = "instruction",
    name: Annotated[str | None, typer.Option(help="Name; by default the project's and the kind.")] = None,
    as_json: Json = False,
) -> None:
    """Freeze the approved rows. Example: curate snapshot my-project --kind instruction"""
    from curation import stages

    show_summary(stages.snapshot(folder, kind, name=name), as_json)


@app.command(rich_help_panel="Freeze")
def sign(
    snapshot: SnapshotFolder,
    key: Annotated[Path | None, typer.Option("--key", help="Private key (PEM); by default yours, made on first use.")] = None,
    as_json: Json = False,
) -> None:
    """Sign a snapshot. Example: curate sign my-project/snapshots/my-v1-3f9c2a1b"""
    from curation import stages

    show_summary(stages.sign(snapshot, key=key), as_json)


@app.command(rich_help_panel="Freeze")
def verify(
    snapshot: SnapshotFolder,
    key: Key = None,
    deep: Annotated[bool, typer.Option("--deep", help="Recompute the digest from the rows.")] = False,
    as_json: Json = False,
) -> None:
    """Say whether a snapshot is whole and whose it is; exit 2 when it may not be used. Example: curate verify SNAPSHOT --key me.pub"""
    from curation import stages

    summary = stages.verify(snapshot, keys=key or (), deep=deep)
    show_summary(summary, as_json)
    if not summary.counts["verified"]:
        raise typer.Exit(2)


@app.command(rich_help_panel="Freeze")
def key(as_json: Json = False) -> None:
    """Make your signing key if you have none, and say where its public half is. Example: curate key"""
    from curation.snapshot import describe_signer, own_key

    private, public = own_key()
    signer = describe_signer(public)
    text = f"{signer}\nPublic key, to give away: {public}\nPrivate key, to keep: {private}"
    tell({"signer": signer, "public_key": public, "private_key": private}, text, as_json=as_json)


@app.command(rich_help_panel="Freeze")
def trust(
    public_key: Annotated[Path | None, typer.Argument(help="A public key (PEM); without one the trusted keys are listed.")] = None,
    remove: Annotated[str | None, typer.Option("--remove", help="Trust this one, by the name in the list, no longer.")] = None,
    as_json: Json = False,
) -> None:
    """Trust the snapshots of a key's owner from now on, or no longer. Example: curate trust alice.pub"""
    from curation.snapshot import add_trusted_key, describe_signer, find_trusted_keys, remove_trusted_key

    if public_key is not None:
        target = add_trusted_key(public_key)
        echo(f"Trusted: {describe_signer(target)} ({target})", err=as_json)
    if remove is not None:
        echo(f"Not trusted any more: {remove_trusted_key(remove)}", err=as_json)
    known = {file.stem: describe_signer(file) for file in find_trusted_keys()}
    if as_json or (public_key is None and remove is None):
        tell({"trusted": known}, "\n".join(f"{name}  {signer}" for name, signer in known.items()) or "No key is trusted.", as_json=as_json)


@app.command(rich_help_panel="Freeze")
def revoke(
    snapshot: SnapshotFolder,
    reason: Reason,
    key: Annotated[Path | None, typer.Option("--key", help="Private key (PEM); by default yours, made on first use.")] = None,
    as_json: Json = False,
) -> None:
    """Take a snapshot back: from now on nobody who has the statement trains on it. Example: curate revoke SNAPSHOT --reason 'leak'"""
    from curation import stages

    show_summary(stages.revoke(snapshot, reason=reason, key=key), as_json)


@app.command(rich_help_panel="Freeze")
def diff(
    old: Annotated[Path, typer.Argument(help="A snapshot's folder.")],
    new: Annotated[Path, typer.Argument(help="Another of the same kind.")],
    as_json: Json = False,
) -> None:
    """Say which rows came, went, moved or turned between two snapshots. Example: curate diff OLD NEW"""
    from curation import stages

    show_summary(stages.diff(old, new), as_json)


@app.command(rich_help_panel="Freeze")
def export(
    snapshot: SnapshotFolder,
    out: Annotated[str, typer.Option("--out", help="The file to write; its ending decides the format: .jsonl, .json, .csv or .parquet.")],
    shape: Annotated[
        Literal["alpaca", "sharegpt", "messages", "preference", "kto"] | None,
        typer.Option("--format", help="Shape of the rows; by default messages, of pairs preference."),
    ] = None,
    split: Annotated[Literal["train", "validation", "test"], typer.Option(help="Which split.")] = "train",
    columns: Annotated[str | None, typer.Option("--columns", help="Metadata columns of imported rows to write too, as a,b,c.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a file that exists.")] = False,
    key: Key = None,
    as_json: Json = False,
) -> None:
    """Write a split for people who train elsewhere. Example: curate export SNAPSHOT --format alpaca --out train.jsonl"""
    from curation import stages

    named = tuple(name.strip() for name in (columns or "").split(",") if name.strip())
    done = stages.export(snapshot, out, shape=shape, split=split, columns=named, force=force, keys=key or ())
    show_summary(done, as_json)
