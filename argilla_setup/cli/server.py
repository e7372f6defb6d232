"""Commands for a server's life: up, down, status, logs, doctor."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from argilla_setup.cli.app import HomeOption, JsonOption, app, say, show
from argilla_setup.command_line import echo

StoreHelp = "; `local` for the built-in one, @FILE to read it from a file. Kept for later starts."


@app.command()
def up(
    home: HomeOption = None,
    port: Annotated[int | None, typer.Option(help="Port; 0 for any free one. Default: as before, or 6900.")] = None,
    detach: Annotated[bool, typer.Option("--detach", help="Leave the server running and return.")] = False,
    host: Annotated[str | None, typer.Option(help="Address to listen on. Default: as before, or 127.0.0.1.")] = None,
    origin: Annotated[list[str] | None, typer.Option(help="Address people type, when a proxy stands in front. May be repeated.")] = None,
    database_url: Annotated[str | None, typer.Option(help="Postgres, as postgresql://…" + StoreHelp)] = None,
    redis_url: Annotated[str | None, typer.Option(help="Redis, as redis://…" + StoreHelp)] = None,
    elasticsearch_url: Annotated[str | None, typer.Option(help="Elasticsearch, as http://…" + StoreHelp)] = None,
    as_json: JsonOption = False,
) -> None:
    """Start Argilla. The first start builds its environment.

    The stores' addresses may also stand in ARGILLA_DATABASE_URL, ARGILLA_REDIS_URL and ARGILLA_ELASTICSEARCH.

    Example: argilla-setup up --detach
    """
    from argilla_setup.server.control import run_foreground, start_detached
    from argilla_setup.server.home import open_home
    from argilla_setup.server.settings import Asked

    place = open_home(home)
    asked = Asked(host, tuple(origin or ()), database_url, redis_url, elasticsearch_url)
    if not detach:
        run_foreground(place, port=port, say=say, asked=asked)
        return
    status = start_detached(place, port=port, say=say, asked=asked)
    lines = [
        f"Argilla at {status.url}",
        f"Log in as owner with the password in {place.secrets_file}",
        f"End it: argilla-setup down --home {place.folder}",
    ]
    show({**asdict(status), "secrets_file": str(place.secrets_file)}, "\n".join(lines), as_json=as_json)


@app.command()
def down(home: HomeOption = None, as_json: JsonOption = False) -> None:
    """Stop Argilla; its data stays.

    Example: argilla-setup down
    """
    from argilla_setup.server.control import stop_server
    from argilla_setup.server.home import open_home
    from argilla_setup.server.processes import find_elsewhere

    place = open_home(home)
    elsewhere = find_elsewhere(place)
    count = stop_server(place)
    text = f"{count} processes ended" if count else "Argilla was not running"
    if elsewhere is not None and elsewhere.kind != "moved":
        text = f"{text} here.\n{elsewhere.sentence(place)}"
    show({"stopped": count}, text, as_json=as_json)


@app.command()
def status(home: HomeOption = None, as_json: JsonOption = False) -> None:
    """Show whether Argilla is up, where, and what it holds. Exit 1 when it is not healthy.

    Example: argilla-setup status --json
    """
    from argilla_setup.server.home import open_home
    from argilla_setup.server.status import describe_server

    found = describe_server(open_home(home))
    word = "up and healthy" if found.healthy else "up but not answering" if found.up else "down"
    lines = [f"Argilla is {word}: {found.url}", f"State: {found.home}", *filter(None, [found.note])]
    lines += [f"  {name}: process {pid}" for name, pid in found.processes.items()]
    lines += [f"  {name}: {url}" for name, url in found.stores.items()]
    lines += [f"  {count} {name}" for name, count in found.counts.items()]
    show(asdict(found), "\n".join(lines), as_json=as_json)
    if not found.healthy:
        raise typer.Exit(1)


@app.command()
def logs(
    home: HomeOption = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on showing what is added, until Ctrl-C.")] = False,
    process: Annotated[str | None, typer.Option(help="supervisor, valkey, web, worker, prepare … Default: all that run.")] = None,
    lines: Annotated[int, typer.Option("--lines", "-n", help="How many of the last lines of each.")] = 50,
) -> None:
    """Show what the server's processes said.

    Example: argilla-setup logs --follow --process web
    """
    from argilla_setup.server.home import open_home
    from argilla_setup.server.logs import show_logs

    show_logs(open_home(home), process=process, lines=lines, follow=follow, say=echo)


@app.command()
def doctor(
    home: HomeOption = None,
    fix: Annotated[bool, typer.Option("--fix", help="Mend what can be mended without losing anything.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Look the server over: processes, port, disk, database, index, file permissions, environment. Exit 1 when something is wrong.

    Example: argilla-setup doctor --fix
    """
    from argilla_setup.server.doctor import examine
    from argilla_setup.server.home import open_home

    found = examine(open_home(home), fix=fix)
    lines = []
    for finding in found:
        mark = "mended" if finding.fixed else finding.level
        lines.append(f"{mark:<7}{finding.about:<12}{finding.text}")
        if finding.next_step and not finding.fixed:
            lines.append(f"{'':<19}Next: {finding.next_step}")
    show([asdict(finding) for finding in found], "\n".join(lines), as_json=as_json)
    if any(finding.level == "wrong" and not finding.fixed for finding in found):
        raise typer.Exit(1)


@app.command(hidden=True)
def supervise(home: Annotated[Path, typer.Option()], port: Annotated[int, typer.Option()]) -> None:
    """Keep the processes of a prepared server up; `up` starts this."""
    from argilla_setup.server.control import supervise as keep_up
    from argilla_setup.server.home import open_home

    keep_up(open_home(home), port=port, say=echo)
