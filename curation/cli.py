"""The `curate` command: parse, call one function of the pipeline, show its summary. Nothing heavy is imported before a verb runs."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from typer.core import TyperGroup

from curation.errors import UserError
from curation.screen_text import show_story, show_summary

if TYPE_CHECKING:
    from curation.pipeline import Progress, Summary


class Commands(TyperGroup):
    """The verbs. Ctrl-C is told here: Typer turns it into a bare exit code before `main` could."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as stop:
            said = str(stop) or "stopped; run the same command again to go on, nothing that came back is lost"
            sys.stderr.write(f"\n{said[0].upper()}{said[1:]}.\n")
            raise typer.Exit(130) from None


app = typer.Typer(
    cls=Commands,
    help="From a brief to reviewed, signed training data. Example: curate init my-project --template icd10 && curate run my-project",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
standin = typer.Typer(help="The offline stand-in: made-up answers on this machine, for trying things out.", no_args_is_help=True)
app.add_typer(standin, name="standin")

Folder = Annotated[Path, typer.Argument(help="The project's folder.")]
SnapshotFolder = Annotated[Path, typer.Argument(help="A snapshot's folder.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
Key = Annotated[list[Path] | None, typer.Option("--key", help="A public key (PEM) to trust; may be given several times.")]
Reason = Annotated[str, typer.Option("--reason", help="Why; kept with the row.")]


def main() -> None:
    """Run the command line; an error a person can mend is one line on stderr and exit 2."""
    quiet_libraries()
    try:
        app()
    except UserError as error:
        sys.stderr.write(f"Error: {error}\n")
        raise SystemExit(2) from None


@app.command()
def init(
    folder: Folder,
    template: Annotated[Literal["icd10", "blank"], typer.Option(help="icd10 works as it is; blank waits for your brief.")] = "blank",
    offline: Annotated[bool, typer.Option(help="Name the offline stand-in as teacher and judge.")] = False,
    instruction: Annotated[int, typer.Option(min=0, help="Instruction examples to plan.")] = 240,
    preference: Annotated[int, typer.Option(min=0, help="Preference pairs to plan.")] = 100,
    argilla: Annotated[str | None, typer.Option(help="Folder of `argilla-setup up --home`, relative to the project.")] = None,
    annotator: Annotated[list[str] | None, typer.Option(help="A person who answers; may be given several times.")] = None,
) -> None:
    """Write a new project. Example: curate init my-project --template icd10"""
    from curation.template import write_template

    write_template(
        folder, template, offline=offline, instruction=instruction, preference=preference, argilla=argilla, annotators=tuple(annotator or ())
    )  # fmt: skip
    following = f"curate plan {folder}" if template == "icd10" else f"fill in `brief` and `intended_use` in {folder}/project.yaml"
    typer.echo(f"Wrote {folder}/project.yaml. Next: {following}")


@app.command()
def plan(folder: Folder, as_json: Json = False) -> None:
    """Lay out what to write, cell by cell. Example: curate plan my-project"""
    from curation import pipeline

    show_summary(pipeline.plan(folder), as_json)


@app.command(name="import")
def import_rows(
    folder: Folder,
    file: Annotated[Path, typer.Argument(help="JSONL, JSON, CSV or Parquet, also gzipped.")],
    shape: Annotated[str, typer.Option("--format", help="auto, alpaca, sharegpt, messages, completion or preference.")] = "auto",
    column: Annotated[list[str] | None, typer.Option(help="ours=theirs, for example prompt=question.")] = None,
    group: Annotated[str | None, typer.Option(help="Rows of one group stay in one split.")] = None,
    as_json: Json = False,
) -> None:
    """Bring in rows that already exist. Example: curate import my-project rows.jsonl --format alpaca"""
    from curation import pipeline

    pairs = [entry.partition("=") for entry in column or ()]
    columns = {ours: theirs for ours, _, theirs in pairs}
    show_summary(pipeline.import_rows(folder, file, shape=shape, columns=columns, seed_group=group), as_json)  # type: ignore[arg-type]


@app.command()
def generate(
    folder: Folder,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what it would cost.")] = False,
    retry_failed: Annotated[bool, typer.Option(help="Ask again for cells whose answer could not be used.")] = False,
    as_json: Json = False,
) -> None:
    """Have the teacher write what the plan still lacks. Example: curate generate my-project"""
    from curation import pipeline

    if dry_run:
        show_summary(pipeline.estimate(folder), as_json)
        return
    with progress_bar(as_json) as progress:
        summary = pipeline.generate(folder, progress=progress, retry_failed=retry_failed)
    show_summary(summary, as_json)


@app.command()
def score(folder: Folder, as_json: Json = False) -> None:
    """Have the judge score what has no score under the present rubric. Example: curate score my-project"""
    _run_stage("score", folder, as_json)


@app.command()
def dedup(folder: Folder, as_json: Json = False) -> None:
    """Find copies, near copies and rewordings. Example: curate dedup my-project"""
    _run_stage("dedup", folder, as_json)


@app.command()
def screen(folder: Folder, as_json: Json = False) -> None:
    """Find leaks of the protected sets, label conflicts and rows that fail a check. Example: curate screen my-project"""
    _run_stage("screen", folder, as_json)


@app.command()
def push(folder: Folder, as_json: Json = False) -> None:
    """Show people in Argilla every row that passed. Example: curate push my-project"""
    _run_stage("push", folder, as_json)


@app.command()
def pull(folder: Folder, as_json: Json = False) -> None:
    """Bring back what people said. Example: curate pull my-project"""
    from curation import pipeline

    show_summary(pipeline.pull(folder), as_json)


@app.command()
def decide(folder: Folder, as_json: Json = False) -> None:
    """Compute every row's verdict from what is known; nothing is measured. Example: curate decide my-project"""
    from curation import pipeline

    show_summary(pipeline.decide(folder), as_json)


@app.command()
def run(
    folder: Folder,
    until: Annotated[str, typer.Option(help="Last stage: plan, generate, score, dedup, screen or push.")] = "push",
    as_json: Json = False,
) -> None:
    """Walk the stages from the plan to a stage. Example: curate run my-project --until push"""
    from curation import pipeline

    with progress_bar(as_json) as progress:
        for summary in pipeline.run(folder, until=until, progress=progress):
            show_summary(summary, as_json)


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
    from curation.snapshot import add_trusted_key, config_folder, create_key, describe_signer

    public = config_folder() / "keys" / "signing.pub"
    if not public.is_file():
        add_trusted_key(create_key(public.parent)[1], name="own")
    typer.echo(f"{describe_signer(public)}\nPublic key, to give away: {public}\nPrivate key, to keep: {public.with_suffix('.pem')}")


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


@app.command()
def status(folder: Folder, as_json: Json = False) -> None:
    """Say where a project stands and what comes next. Example: curate status my-project"""
    from curation import pipeline

    show_summary(pipeline.status(folder), as_json)


@app.command()
def trace(
    folder: Folder, row: Annotated[str, typer.Argument(help="A record's id, or its first characters.")], as_json: Json = False
) -> None:
    """Tell one row's whole story. Example: curate trace my-project 3f9c2a1b"""
    from curation import pipeline

    show_story(pipeline.trace(folder, row), as_json)


@app.command()
def report(folder: Folder, out: Annotated[Path | None, typer.Option(help="Where to write it.")] = None, as_json: Json = False) -> None:
    """Write the project's page, one HTML file. Example: curate report my-project"""
    from curation import pipeline

    show_summary(pipeline.report(folder, out=out), as_json)


@app.command()
def keep(folder: Folder, row: Annotated[str, typer.Argument(help="A record's id.")], reason: Reason, as_json: Json = False) -> None:
    """Take a row back whatever the rules say. Example: curate keep my-project 3f9c2a1b --reason 'checked by hand'"""
    from curation import pipeline

    show_summary(pipeline.override(folder, row, action="keep", reason=reason), as_json)


@app.command()
def drop(folder: Folder, row: Annotated[str, typer.Argument(help="A record's id.")], reason: Reason, as_json: Json = False) -> None:
    """Take a row out whatever the rules say. Example: curate drop my-project 3f9c2a1b --reason 'ambiguous'"""
    from curation import pipeline

    show_summary(pipeline.override(folder, row, action="drop", reason=reason), as_json)


@app.command()
def erase(folder: Folder, row: Annotated[str, typer.Argument(help="A record's id.")], reason: Reason, as_json: Json = False) -> None:
    """Take a row's text out for good, leaving a tombstone. Example: curate erase my-project 3f9c2a1b --reason 'personal data'"""
    from curation import pipeline

    show_summary(pipeline.erase(folder, row, reason=reason), as_json)


@app.command()
def serve(
    folder: Folder,
    port: Annotated[int, typer.Option(help="Port of the health page.")] = 8600,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    every: Annotated[float, typer.Option(min=1, help="Seconds between two looks at Argilla.")] = 60,
) -> None:
    """Bring answers in as they come, with GET /healthz and GET /status. Example: curate serve my-project"""
    from curation.service import serve_project

    serve_project(folder, host=host, port=port, every=every)


@standin.command("start")
def standin_start(
    folder: Folder,
    log: Annotated[Path, typer.Option(help="Folder outside the project for its request log.")],
    port: Annotated[int, typer.Option(help="0 takes a free one.")] = 0,
    seed: Annotated[int, typer.Option(help="Same seed, same answers.")] = 7,
) -> None:
    """Start the offline stand-in for a project. Example: curate standin start my-project --log /tmp/standin"""
    from curation.project import load_project
    from curation.standin.lifecycle import start

    grounding = load_project(folder).plan.grounding
    url = start(folder, table=folder / grounding.table if grounding else None, seed=seed, log=log, port=port)
    typer.echo(f"The offline stand-in answers at {url} with made-up text. Next: curate generate {folder}")


@standin.command("stop")
def standin_stop(folder: Folder) -> None:
    """Stop the offline stand-in. Example: curate standin stop my-project"""
    from curation.standin.lifecycle import stop

    typer.echo("Stopped." if stop(folder) else "It was not running.")


@standin.command("review")
def standin_review(
    folder: Folder,
    name: Annotated[str, typer.Option(help="The simulated annotator, an account made by argilla-setup users add.")],
    log: Annotated[Path, typer.Option(help="Folder outside the project for what it got wrong on purpose.")],
    seed: Annotated[int, typer.Option(help="Same seed, same answers.")] = 7,
    as_json: Json = False,
) -> None:
    """Let a simulated annotator answer what is pending, as a real user over Argilla's API. Example: curate standin review my-project --name simulated-one --log /tmp/standin"""
    from curation.pipeline import Summary
    from curation.standin.visit import review_as

    done = review_as(folder, name=name, log=log, seed=seed)
    notes = [f"{name} is simulated; its answers say so and snapshots made from them are marked."]
    show_summary(Summary("standin review", done.answered, done.answered, {"edited": done.edited}, notes), as_json)


def quiet_libraries() -> None:
    """Keep other people's progress bars and notices off the screen; our own say what is going on."""
    os.environ.setdefault("TQDM_DISABLE", "1")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    for name in ("argilla.sdk", "bitsandbytes", "httpx", "sentence_transformers", "transformers"):
        logging.getLogger(name).setLevel(logging.ERROR)


@contextmanager
def progress_bar(quiet: bool) -> Iterator[Progress | None]:
    """A bar on stderr; nothing for `--json` or where stderr is no terminal."""
    if quiet or not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[words]}"),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        tasks: dict[str, Any] = {}

        def tell(stage: str, done: int, total: int, words: str) -> None:
            if stage not in tasks:
                tasks[stage] = bar.add_task(stage, total=total, words=words)
            bar.update(tasks[stage], completed=done, total=total, words=words)

        yield tell


def _run_stage(name: str, folder: Path, as_json: bool) -> None:
    from curation import pipeline

    stage: Any = getattr(pipeline, name)
    with progress_bar(as_json) as progress:
        summary: Summary = stage(folder, progress=progress)
    show_summary(summary, as_json)
