"""The commands that look at a project, and those by which a person overrules it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from curation.cli.app import Folder, Json, Reason, app
from curation.cli.output import show_story, show_summary


@app.command(rich_help_panel="Look")
def status(folder: Folder, as_json: Json = False) -> None:
    """Say where a project stands and what comes next. Example: curate status my-project"""
    from curation import stages

    show_summary(stages.status(folder), as_json)


@app.command(rich_help_panel="Look")
def trace(
    folder: Folder, row: Annotated[str, typer.Argument(help="A record's id, or its first characters.")], as_json: Json = False
) -> None:
    """Tell one row's whole story. Example: curate trace my-project 3f9c2a1b"""
    from curation import stages

    show_story(stages.trace(folder, row), as_json)


@app.command(rich_help_panel="Look")
def report(folder: Folder, out: Annotated[Path | None, typer.Option(help="Where to write it.")] = None, as_json: Json = False) -> None:
    """Write the project's page, one HTML file. Example: curate report my-project"""
    from curation import stages

    show_summary(stages.report(folder, out=out), as_json)


@app.command(rich_help_panel="People")
def keep(
    folder: Folder,
    row: Annotated[str, typer.Argument(help="A record's id.")],
    reason: Reason,
    choice: Annotated[
        str | None, typer.Option("--as", help="What wins where annotators disagree: first, second, approve, reject or edit:USER.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Keep a row whatever the gates say, or settle a dispute. Example: curate keep my-project 3f9c2a1b --as second --reason 'A is wrong'"""
    from curation import stages

    show_summary(stages.override(folder, row, action="keep", reason=reason, choice=choice), as_json)


@app.command(rich_help_panel="People")
def drop(folder: Folder, row: Annotated[str, typer.Argument(help="A record's id.")], reason: Reason, as_json: Json = False) -> None:
    """Drop a row whatever gates and annotators say. Example: curate drop my-project 3f9c2a1b --reason 'ambiguous'"""
    from curation import stages

    show_summary(stages.override(folder, row, action="drop", reason=reason), as_json)


@app.command(rich_help_panel="People")
def erase(folder: Folder, row: Annotated[str, typer.Argument(help="A record's id.")], reason: Reason, as_json: Json = False) -> None:
    """Take a row's text out for good, leaving a tombstone. Example: curate erase my-project 3f9c2a1b --reason 'personal data'"""
    from curation import stages

    show_summary(stages.erase(folder, row, reason=reason), as_json)


@app.command(rich_help_panel="People")
def serve(
    folder: Folder,
    port: Annotated[int, typer.Option(help="Port of the health page.")] = 8600,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    every: Annotated[float, typer.Option(min=1, help="Seconds between two looks at Argilla.")] = 60,
) -> None:
    """Pull answers as people give them. GET /healthz is open; GET /status needs the token in my-project/serve.token.

    Example: curate serve my-project
    """
    from curation.server import serve_project

    serve_project(folder, host=host, port=port, every=every)
