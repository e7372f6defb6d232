"""The commands around human review: push, pull, keep, drop, erase, serve."""

from __future__ import annotations

from typing import Annotated

import typer

from curation.cli.app import Folder, Json, Reason, RowId, Verbose, app, progress_bar
from curation.cli.output import print_result


@app.command(rich_help_panel="People")
def push(folder: Folder, as_json: Json = False) -> None:
    """Send the rows that passed the gates to Argilla. Example: curate push my-project"""
    from curation.stages.push import push as run_stage

    with progress_bar(as_json) as progress:
        result = run_stage(folder, progress=progress)
    print_result(result, as_json)


@app.command(rich_help_panel="People")
def pull(folder: Folder, verbose: Verbose = False, as_json: Json = False) -> None:
    """Fetch the annotations from Argilla. Example: curate pull my-project"""
    from curation.stages.pull import pull as run_stage

    print_result(run_stage(folder), as_json, verbose=verbose)


@app.command(rich_help_panel="People")
def keep(
    folder: Folder,
    row: RowId,
    reason: Reason,
    choice: Annotated[
        str | None, typer.Option("--as", help="The outcome where annotators disagree: first, second, approve, reject or edit:USER.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Force-keep a row, or settle a dispute. Example: curate keep my-project 3f9c2a1b --as second --reason 'A is wrong'"""
    from curation.stages.override import override as run_stage

    print_result(run_stage(folder, row, action="keep", reason=reason, choice=choice), as_json)


@app.command(rich_help_panel="People")
def drop(folder: Folder, row: RowId, reason: Reason, as_json: Json = False) -> None:
    """Force-drop a row. Example: curate drop my-project 3f9c2a1b --reason 'ambiguous'"""
    from curation.stages.override import override as run_stage

    print_result(run_stage(folder, row, action="drop", reason=reason), as_json)


@app.command(rich_help_panel="People")
def erase(folder: Folder, row: RowId, reason: Reason, as_json: Json = False) -> None:
    """Delete a row's text and leave a tombstone. Example: curate erase my-project 3f9c2a1b --reason 'personal data'"""
    from curation.stages.override import erase as run_stage

    print_result(run_stage(folder, row, reason=reason), as_json)


@app.command(rich_help_panel="People")
def serve(
    folder: Folder,
    port: Annotated[int, typer.Option(help="Port of the HTTP service.")] = 8600,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    every: Annotated[float, typer.Option(min=1, help="Seconds between two pulls.")] = 60,
) -> None:
    """Sync annotations continuously. Example: curate serve my-project

    GET /healthz is open. GET /status needs the token in my-project/serve.token.
    """
    from curation.server import serve_project

    serve_project(folder, host=host, port=port, every=every)
