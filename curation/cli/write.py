"""The commands that walk the stages, in their order."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from curation.cli.app import Folder, Json, app, progress_bar, run_stage, tell
from curation.cli.output import show_summary


@app.command(rich_help_panel="Write")
def init(
    folder: Folder,
    template: Annotated[Literal["icd10", "blank"], typer.Option(help="icd10 works as it is; blank waits for your brief.")] = "blank",
    offline: Annotated[bool, typer.Option(help="Name the offline stand-in as teacher and judge.")] = False,
    instruction: Annotated[int, typer.Option(min=0, help="Instruction examples to plan.")] = 240,
    preference: Annotated[int, typer.Option(min=0, help="Preference pairs to plan.")] = 100,
    argilla: Annotated[str | None, typer.Option(help="Folder of `argilla-setup up --home`, relative to the project.")] = None,
    annotator: Annotated[list[str] | None, typer.Option(help="A person who answers; may be given several times.")] = None,
    import_only: Annotated[
        bool, typer.Option("--import-only", help="For rows you have: no plan, no judge (score: null), no review (review: none).")
    ] = False,
    as_json: Json = False,
) -> None:
    """Write a new project. Example: curate init my-project --template icd10"""
    from curation.errors import ProjectError, command
    from curation.template import write_template

    people = tuple(annotator or ())
    if import_only and template != "blank":
        raise ProjectError(
            "--import-only", f"goes with --template blank, not {template}", command("curate", "init", folder, "--import-only")
        )
    write_template(
        folder, template, offline=offline, instruction=instruction, preference=preference, argilla=argilla, annotators=people,
        import_only=import_only,
    )  # fmt: skip
    following = command("curate", "plan", folder) if template == "icd10" else f"fill in `brief` and `intended_use` in {folder}/project.yaml"
    tell({"project": folder / "project.yaml", "next": following}, f"Wrote {folder}/project.yaml. Next: {following}", as_json=as_json)


@app.command(rich_help_panel="Write")
def plan(folder: Folder, as_json: Json = False) -> None:
    """Lay out what to write, cell by cell. Example: curate plan my-project"""
    from curation import stages

    show_summary(stages.plan(folder), as_json)


@app.command(name="import", rich_help_panel="Write")
def import_rows(
    folder: Folder,
    file: Annotated[
        list[str],
        typer.Argument(
            help="JSONL, JSON, CSV, TSV (also .gz), Parquet, .xlsx; a folder, a folder of save_to_disk, a glob, hf://OWNER/NAME."
        ),
    ],
    shape: Annotated[
        Literal["auto", "alpaca", "sharegpt", "messages", "prompt-completion", "preference", "kto", "oasst"],
        typer.Option("--format", help="Shape of the rows."),
    ] = "auto",
    column: Annotated[list[str] | None, typer.Option(help="ours=theirs, for example prompt=question.")] = None,
    group: Annotated[str | None, typer.Option(help="A column; rows with the same value in it stay in one split.")] = None,
    source: Annotated[str | None, typer.Option(help="Name of the data set, for the card.")] = None,
    license: Annotated[str | None, typer.Option(help="SPDX identifier, for example CC-BY-4.0.")] = None,
    written_by: Annotated[Literal["people", "model", "unknown"] | None, typer.Option(help="Who wrote the rows.")] = None,
    encoding: Annotated[str | None, typer.Option(help="Instead of what is detected, for example cp1252 or utf-16.")] = None,
    delimiter: Annotated[str | None, typer.Option(help="Of a CSV file, instead of what is detected.")] = None,
    sheet: Annotated[str | None, typer.Option(help="Of an Excel file; the first one with rows by default.")] = None,
    header: Annotated[bool, typer.Option(help="--no-header: the columns are called 1, 2, 3.")] = True,
    strict: Annotated[bool, typer.Option("--strict", help="Import nothing where a row or a value would be lost.")] = False,
    as_json: Json = False,
) -> None:
    """Import existing rows. Example: curate import my-project rows.jsonl --source dolly-15k --license CC-BY-SA-3.0 --written-by people"""
    from curation import stages
    from curation.errors import ProjectError
    from curation.spdx import read_license

    pairs = [entry.partition("=") for entry in column or ()]
    if wrong := next((ours for ours, sign, theirs in pairs if not (ours and sign and theirs)), None):
        raise ProjectError(f"--column {wrong}", "says no column of the file", "write ours=theirs, for example --column prompt=question")
    columns = {ours: theirs for ours, _, theirs in pairs}
    if sys.stdin.isatty() and sys.stdout.isatty() and not as_json:
        source = source or typer.prompt("Name of the data set", default="unknown")
        license = read_license(license or typer.prompt("Its license (SPDX, for example CC-BY-4.0)", default="unknown"))
        while written_by not in ("people", "model", "unknown"):
            written_by = typer.prompt("Who wrote the rows (people, model or unknown)", default="unknown")
    stated = stages.Provenance(source or "unknown", license or "unknown", written_by or "unknown")
    read_as = stages.ReadAs(encoding, "\t" if delimiter == "\\t" else delimiter, sheet, header)
    summary = stages.import_rows(
        folder, *file, shape=shape, columns=columns, group=group, provenance=stated, read_as=read_as, strict=strict
    )  # fmt: skip
    show_summary(summary, as_json)


@app.command(rich_help_panel="Write")
def generate(
    folder: Folder,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what it would cost.")] = False,
    retry_failed: Annotated[bool, typer.Option(help="Ask again for cells whose answer could not be used.")] = False,
    as_json: Json = False,
) -> None:
    """Have the teacher write what the plan still lacks. Example: curate generate my-project"""
    from curation import stages

    if dry_run:
        show_summary(stages.estimate(folder), as_json)
        return
    with progress_bar(as_json) as progress:
        summary = stages.generate(folder, progress=progress, retry_failed=retry_failed)
    show_summary(summary, as_json)


@app.command(rich_help_panel="Gates")
def score(folder: Folder, as_json: Json = False) -> None:
    """Have the judge score what has no score under the present rubric. Example: curate score my-project"""
    run_stage("score", folder, as_json)


@app.command(rich_help_panel="Gates")
def dedup(
    folder: Folder,
    against: Annotated[list[Path] | None, typer.Option(help="An earlier snapshot whose rows are not made again; may be repeated.")] = None,
    ray: Annotated[str | None, typer.Option(help="Look for near copies on the Ray cluster at this address (`auto`, `local`).")] = None,
    as_json: Json = False,
) -> None:
    """Find copies, near copies and rewordings. Example: curate dedup my-project --against other/snapshots/support-v1-3f9c2a1b"""
    from curation import stages

    with progress_bar(as_json) as progress:
        summary = stages.dedup(folder, against=against or (), ray=ray, progress=progress)
    show_summary(summary, as_json)


@app.command(rich_help_panel="Gates")
def screen(folder: Folder, as_json: Json = False) -> None:
    """Find leaks of the protected sets, label conflicts and rows that fail a check. Example: curate screen my-project"""
    run_stage("screen", folder, as_json)


@app.command(rich_help_panel="Write")
def refill(
    folder: Folder,
    rounds: Annotated[int | None, typer.Option(min=0, max=20, help="How often a cell may be asked again in all.")] = None,
    as_json: Json = False,
) -> None:
    """Ask again for the cells whose row fell in a gate. Example: curate refill my-project --rounds 2"""
    from curation import stages

    with progress_bar(as_json) as progress:
        summary = stages.refill(folder, rounds=rounds, progress=progress)
    show_summary(summary, as_json)


@app.command(rich_help_panel="Look")
def diversity(
    folder: Folder,
    naive: Annotated[int, typer.Option(min=0, help="Also have the teacher write so many examples without a plan, to compare.")] = 0,
    as_json: Json = False,
) -> None:
    """Say how various the rows are that stand. Example: curate diversity my-project --naive 100"""
    from curation import stages

    with progress_bar(as_json) as progress:
        summary = stages.diversity(folder, naive=naive, progress=progress)
    show_summary(summary, as_json)


@app.command(rich_help_panel="People")
def push(folder: Folder, as_json: Json = False) -> None:
    """Show people in Argilla every row that passed. Example: curate push my-project"""
    run_stage("push", folder, as_json)


@app.command(rich_help_panel="People")
def pull(folder: Folder, as_json: Json = False) -> None:
    """Bring back what people said. Example: curate pull my-project"""
    from curation import stages

    show_summary(stages.pull(folder), as_json)


@app.command(rich_help_panel="People")
def decide(folder: Folder, as_json: Json = False) -> None:
    """Compute every row's verdict from what is known; nothing is measured. Example: curate decide my-project"""
    from curation import stages

    show_summary(stages.decide(folder), as_json)


@app.command(rich_help_panel="Write")
def run(
    folder: Folder,
    until: Annotated[str, typer.Option(help="Last stage: plan, generate, score, dedup, screen, refill or push.")] = "push",
    as_json: Json = False,
) -> None:
    """Walk the stages from the plan to a stage; with --json one object a stage. Example: curate run my-project --until push"""
    from curation import stages

    with progress_bar(as_json) as progress:
        for summary in stages.run(folder, until=until, progress=progress):
            show_summary(summary, as_json)
