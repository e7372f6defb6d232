"""Commands that keep a server's contents through the years: backup, restore, upgrade."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from argilla_setup.cli.app import HomeOption, JsonOption, app, say, show


@app.command()
def backup(file: Path, home: HomeOption = None, as_json: JsonOption = False) -> None:
    """Write database, secrets and credentials into one private file; the server may be up, nobody's answer is lost.

    Example: argilla-setup backup review-2026-11-24.tar.gz
    """
    from argilla_setup.server.backup import write_backup
    from argilla_setup.server.home import open_home
    from argilla_setup.server.processes import find_elsewhere

    place = open_home(home)
    if elsewhere := find_elsewhere(place):
        say(elsewhere.sentence(place))
    made = write_backup(place, file.expanduser().resolve())
    held = ", ".join(f"{count} {name}" for name, count in made.counts.items())
    show(asdict(made), f"{made.file}: {held}. It holds passwords: keep it as you keep those.", as_json=as_json)


@app.command()
def restore(
    file: Path,
    home: HomeOption = None,
    replace: Annotated[bool, typer.Option("--replace", help="Set what the folder holds aside instead of refusing.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Put a backup into a state folder whose server is down; the next start builds the search index from it.

    Example: argilla-setup restore review-2026-11-24.tar.gz --home review
    """
    from argilla_setup.server.backup import restore_backup
    from argilla_setup.server.home import open_home

    place = open_home(home)
    made = restore_backup(place, file.expanduser().resolve(), replace=replace)
    held = ", ".join(f"{count} {name}" for name, count in made.counts.items())
    text = f"{place.folder}: {held}, as of {made.created}\nNext: argilla-setup up --detach --home {place.folder}"
    show(asdict(made) | {"home": str(place.folder)}, text, as_json=as_json)


@app.command()
def upgrade(home: HomeOption = None, as_json: JsonOption = False) -> None:
    """Move to this release's environment: build it, keep a backup, migrate the database, and start again if the server was up.

    Example: argilla-setup upgrade
    """
    from argilla_setup.server.home import open_home
    from argilla_setup.server.upgrade import upgrade_server

    done = upgrade_server(open_home(home), say=say)
    text = f"Upgraded to environment {done.lock}" + (", and up again" if done.restarted else "")
    show(asdict(done), text if done.changed else f"Nothing to do: environment {done.lock} is current", as_json=as_json)
