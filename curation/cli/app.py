"""The `curate` program and what its commands share: their common options, the progress bar, quiet libraries."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from argilla_setup.command_line import QuotingGroup, echo
from argilla_setup.command_line import as_json as json_of
from argilla_setup.shown import mask_secrets, mask_values, visible
from curation.cli.output import show_summary

if TYPE_CHECKING:
    from curation.stages import Progress, StageResult


class Commands(QuotingGroup):
    """The verbs. Ctrl-C is told here: Typer turns it into a bare exit code before `main` could."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as stop:
            said = str(stop) or "stopped; run the same command again to go on, nothing that came back is lost"
            echo(f"\n{said[0].upper()}{said[1:]}.", err=True)
            raise typer.Exit(130) from None


def _tell_version(wanted: bool) -> None:
    if wanted:
        import importlib.metadata

        typer.echo(f"seedcorn {importlib.metadata.version('seedcorn')}")
        raise typer.Exit


app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

standin = typer.Typer(help="The offline stand-in: made-up answers on this machine, for trying things out.", no_args_is_help=True)

app.add_typer(standin, name="standin", rich_help_panel="Try out")


@app.callback()
def options(
    version: Annotated[bool, typer.Option("--version", callback=_tell_version, is_eager=True, help="Say which version this is.")] = False,
) -> None:
    """From a brief to reviewed, signed training data. Example: curate init my-project --template icd10 && curate run my-project"""


def tell(values: dict[str, Any], text: str, *, as_json: bool) -> None:
    """Print what a command that is no stage came to."""
    if as_json:
        print(json_of(mask_values({name: str(v) if isinstance(v, Path) else v for name, v in values.items()})))
    else:
        echo(text)


Folder = Annotated[Path, typer.Argument(help="The project's folder.")]

SnapshotFolder = Annotated[Path, typer.Argument(help="A snapshot's folder.")]

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]

Key = Annotated[list[Path] | None, typer.Option("--key", help="A public key (PEM) to trust; may be given several times.")]

Reason = Annotated[str, typer.Option("--reason", help="Why; kept with the row.")]


def run_stage(name: str, folder: Path, as_json: bool) -> None:
    """Run a stage that takes a while, with a bar, and show what it did."""
    from curation import stages as pipeline

    stage: Any = getattr(pipeline, name)
    with progress_bar(as_json) as progress:
        summary: StageResult = stage(folder, progress=progress)
    show_summary(summary, as_json)


@contextmanager
def progress_bar(quiet: bool) -> Iterator[Progress | None]:
    """A bar on stderr; nothing for `--json` or where stderr is no terminal."""
    if quiet or not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[words]}", markup=False),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        tasks: dict[str, Any] = {}

        def tell(stage: str, done: int, total: int, words: str) -> None:
            words = visible(mask_secrets(words), lines=False)
            if stage not in tasks:
                tasks[stage] = bar.add_task(stage, total=total, words=words)
            bar.update(tasks[stage], completed=done, total=total, words=words)

        yield tell
