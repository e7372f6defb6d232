"""The commands of the offline stand-in."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from curation.cli.app import Folder, Json, print_values, simulate
from curation.cli.output import print_result


@simulate.command("start")
def standin_start(
    folder: Folder,
    log: Annotated[Path, typer.Option(help="Folder outside the project for its request log.")],
    port: Annotated[int, typer.Option(help="0 takes a free one.")] = 0,
    seed: Annotated[int, typer.Option(help="Same seed, same answers.")] = 7,
    as_json: Json = False,
) -> None:
    """Start the offline stand-in for a project. Example: curate standin start my-project --log /tmp/standin"""
    from curation.config.project import load_project
    from curation.errors import command
    from curation.simulation.process import start

    grounding = load_project(folder).plan.grounding
    url = start(folder, table=folder / grounding.table if grounding else None, seed=seed, log=log, port=port)
    text = f"The offline stand-in answers at {url} with made-up text. Next: {command('curate', 'generate', folder)}"
    print_values({"url": url}, text, json=as_json)


@simulate.command("stop")
def standin_stop(folder: Folder, as_json: Json = False) -> None:
    """Stop the offline stand-in. Example: curate standin stop my-project"""
    from curation.simulation.process import stop

    ended = stop(folder)
    print_values({"stopped": ended}, "Stopped." if ended else "It was not running.", json=as_json)


@simulate.command("review")
def standin_review(
    folder: Folder,
    name: Annotated[str, typer.Option(help="The simulated annotator, an account made by argilla-setup users add.")],
    log: Annotated[Path, typer.Option(help="Folder outside the project for what it got wrong on purpose.")],
    seed: Annotated[int, typer.Option(help="Same seed, same answers.")] = 7,
    as_json: Json = False,
) -> None:
    """Let a simulated annotator answer what is pending, as a real user over Argilla's API.

    Example: curate standin review my-project --name simulated-one --log /tmp/standin
    """
    from curation.simulation.review_client import review_as
    from curation.stages import StageResult

    done = review_as(folder, name=name, log=log, seed=seed)
    notes = [f"{name} is simulated; its answers say so and snapshots made from them are marked."]
    print_result(StageResult("standin review", done.answered, done.answered, {"edited": done.edited}, notes), as_json)
