"""The commands on snapshots and keys."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from curation.cli.app import Folder, Json, Key, SnapshotFolder, app
from curation.screen_text import show_summary


@app.command()
def snapshot(
    folder: Folder,
    kind: Annotated[Literal["instruction", "preference"], typer.Option(help="Which rows.")] = "instruction",
    name: Annotated[str | None, typer.Option(help="Name; by default the project's and the kind.")] = None,
    as_json: Json = False,
) -> None:
    """Freeze the approved rows. Example: curate snapshot my-project --kind instruction"""
    from curation import pipeline

    show_summary(pipeline.snapshot(folder, kind, name=name), as_json)


@app.command()
def sign(
    snapshot: SnapshotFolder,
    key: Annotated[Path | None, typer.Option("--key", help="Private key (PEM); by default yours, made on first use.")] = None,
    as_json: Json = False,
) -> None:
    """Sign a snapshot. Example: curate sign my-project/snapshots/my-v1-3f9c2a1b"""
    from curation import pipeline

    show_summary(pipeline.sign(snapshot, key=key), as_json)


@app.command()
def verify(
    snapshot: SnapshotFolder,
    key: Key = None,
    deep: Annotated[bool, typer.Option("--deep", help="Recompute the digest from the rows.")] = False,
    as_json: Json = False,
) -> None:
    """Say whether a snapshot is whole and whose it is; exit 2 when it may not be used. Example: curate verify SNAPSHOT --key me.pub"""
    from curation import pipeline

    summary = pipeline.verify(snapshot, keys=key or (), deep=deep)
    show_summary(summary, as_json)
    if not summary.counts["verified"]:
        raise typer.Exit(2)


@app.command()
def key() -> None:
    """Make your signing key if you have none, and say where its public half is. Example: curate key"""
    from curation.snapshot import describe_signer, own_key

    private, public = own_key()
    typer.echo(f"{describe_signer(public)}\nPublic key, to give away: {public}\nPrivate key, to keep: {private}")


@app.command()
def trust(public_key: Annotated[Path, typer.Argument(help="A public key (PEM).")]) -> None:
    """Trust the snapshots of a key's owner from now on. Example: curate trust alice.pub"""
    from curation.snapshot import add_trusted_key, describe_signer

    target = add_trusted_key(public_key)
    typer.echo(f"Trusted: {describe_signer(target)} ({target})")


@app.command()
def export(
    snapshot: SnapshotFolder,
    out: Annotated[Path, typer.Option("--out", help="The JSONL file to write.")],
    shape: Annotated[
        Literal["alpaca", "sharegpt", "messages", "preference"], typer.Option("--format", help="Shape of the rows.")
    ] = "messages",
    split: Annotated[Literal["train", "validation", "test"], typer.Option(help="Which split.")] = "train",
    key: Key = None,
    as_json: Json = False,
) -> None:
    """Write a split for people who train elsewhere. Example: curate export SNAPSHOT --format alpaca --out train.jsonl"""
    from curation import pipeline

    show_summary(pipeline.export(snapshot, out, shape=shape, split=split, keys=key or ()), as_json)
