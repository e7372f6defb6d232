"""The verbs that look at the rows as a whole: describe, compare, balance."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from curation.cli.app import Folder, Json, app, progress_bar
from curation.cli.output import show_summary

Rows = Annotated[str, typer.Option("--rows", help="Which rows: standing (may still leave in a snapshot), approved, or all.")]


@app.command(rich_help_panel="Look")
def describe(folder: Folder, rows: Rows = "standing", as_json: Json = False) -> None:
    """Count lengths, languages, topics, stock phrases, personal data and classes. Example: curate describe my-project"""
    from curation import stages

    with progress_bar(as_json) as progress:
        summary = stages.describe(folder, scope=rows, progress=progress)  # type: ignore[arg-type]
    show_summary(summary, as_json)


@app.command(rich_help_panel="Look")
def compare(
    folder: Folder,
    real: Annotated[Path, typer.Argument(help="A sample of real use: JSONL, JSON, CSV, TSV (also .gz) or Parquet.")],
    column: Annotated[str | None, typer.Option("--column", help="Its column of texts, or of messages.")] = None,
    rows: Rows = "standing",
    as_json: Json = False,
) -> None:
    """Compare rows with real user data. Example: curate compare my-project real.jsonl --column text"""
    from curation import stages

    with progress_bar(as_json) as progress:
        summary = stages.compare(folder, real, column=column, scope=rows, progress=progress)  # type: ignore[arg-type]
    show_summary(summary, as_json)


@app.command(rich_help_panel="Gates")
def balance(folder: Folder, as_json: Json = False) -> None:
    """Show the classes before and after the cap, and what the plan is asked for. Example: curate balance my-project"""
    from curation import stages

    show_summary(stages.balance(folder), as_json)
