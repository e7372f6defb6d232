"""The commands that share snapshots and take rows back: publish, fetch, list, restore, prove, affected, withdraw."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from argilla_setup.command_line import echo
from curation.cli.app import Json, Key, SnapshotFolder, app
from curation.cli.output import print_result


def _say(text: str) -> None:
    echo(text, err=True)


@app.command(rich_help_panel="Share and take back")
def publish(
    snapshot: SnapshotFolder,
    target: Annotated[str, typer.Argument(help="hf://datasets/ORG/NAME, or a folder: s3://BUCKET/snapshots, gs://, az://, a path.")],
    public: Annotated[bool, typer.Option("--public", help="The repository on the Hub may be public.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List files, rows, licenses and PII findings; send nothing.")] = False,
    statements: Annotated[bool, typer.Option("--statements", help="Send only its revocations and withdrawals.")] = False,
    key: Key = None,
    as_json: Json = False,
) -> None:
    """Publish a signed snapshot; a repeated command sends what is missing. Example: curate publish SNAPSHOT s3://bucket/snapshots"""
    from curation.stages.publish import publish as run_stage

    print_result(run_stage(snapshot, target, public=public, dry_run=dry_run, statements=statements, keys=key or (), say=_say), as_json)


@app.command(rich_help_panel="Share and take back")
def fetch(
    source: Annotated[str, typer.Argument(help="Address of a published snapshot, or FOLDER/NAME@latest.")],
    out: Annotated[Path, typer.Option("--out", help="Folder of snapshots.")] = Path("snapshots"),
    key: Key = None,
    as_json: Json = False,
) -> None:
    """Fetch a published snapshot and check digest and signature. Example: curate fetch hf://datasets/org/name --key alice.pub"""
    from curation.stages.fetch import fetch as run_stage

    print_result(run_stage(source, out, keys=key or (), say=_say), as_json)
