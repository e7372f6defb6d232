"""`argilla-setup`: Argilla on this machine, for a team of one or a few."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from argilla_setup.errors import UserError

app = typer.Typer(
    help="Run Argilla, the review tool, on this machine: its page, its users, its secrets.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
users_app = typer.Typer(help="Who may log in.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(users_app, name="users")

HomeOption = Annotated[Path | None, typer.Option("--home", help="Folder of the server's state. Default: the user's data folder.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command()
def up(
    home: HomeOption = None,
    port: Annotated[int | None, typer.Option(help="Port on 127.0.0.1; 0 for any free one. Default: as before, or 6900.")] = None,
    detach: Annotated[bool, typer.Option("--detach", help="Leave the server running and return.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Start Argilla. The first start builds its environment.

    Example: argilla-setup up --detach
    """
    from argilla_setup.server.control import run_foreground, start_detached
    from argilla_setup.server.home import open_home

    place = open_home(home)
    if not detach:
        run_foreground(place, port=port, say=_say)
        return
    status = start_detached(place, port=port, say=_say)
    lines = (
        f"Argilla at {status.url}",
        f"Log in as owner with the password in {place.secrets_file}",
        f"End it: argilla-setup down --home {place.folder}",
    )
    _print({**asdict(status), "secrets_file": str(place.secrets_file)}, "\n".join(lines), as_json=as_json)


@app.command()
def down(home: HomeOption = None, as_json: JsonOption = False) -> None:
    """Stop Argilla; its data stays.

    Example: argilla-setup down
    """
    from argilla_setup.server.control import stop_server
    from argilla_setup.server.home import open_home

    count = stop_server(open_home(home))
    _print({"stopped": count}, f"{count} processes ended" if count else "Argilla was not running", as_json=as_json)


@app.command()
def status(home: HomeOption = None, as_json: JsonOption = False) -> None:
    """Show whether Argilla is up, where, and what it holds. Exit 1 when it is not healthy.

    Example: argilla-setup status --json
    """
    from argilla_setup.server.control import describe_server
    from argilla_setup.server.home import open_home

    found = describe_server(open_home(home))
    word = "up and healthy" if found.healthy else "up but not answering" if found.up else "down"
    lines = [f"Argilla is {word}: {found.url}", f"State: {found.home}"]
    lines += [f"  {name}: process {pid}" for name, pid in found.processes.items()]
    lines += [f"  {count} {name}" for name, count in found.counts.items()]
    _print(asdict(found), "\n".join(lines), as_json=as_json)
    if not found.healthy:
        raise typer.Exit(1)


@app.command()
def secrets(
    home: HomeOption = None,
    show: Annotated[bool, typer.Option("--show", help="Print the secrets themselves.")] = False,
    compose: Annotated[Path | None, typer.Option(help="Write new secrets for docker-compose.yml into this folder.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Show where the owner's password and key are kept.

    Example: argilla-setup secrets --show
    """
    from argilla_setup.server.compose import write_compose_secrets
    from argilla_setup.server.home import load_secrets, open_home

    if compose is not None:
        files = write_compose_secrets(compose)
        _print({"files": [str(f) for f in files]}, "\n".join(f"{f}" for f in files), as_json=as_json)
        return
    place = open_home(home)
    found = load_secrets(place)
    body: dict[str, Any] = {"secrets_file": str(place.secrets_file), "users_folder": str(place.users_folder)}
    text = f"{place.secrets_file}\nUsers' credentials: {place.users_folder}"
    if show:
        shown = {"owner": found.owner_username, "password": found.owner_password, "api_key": found.owner_api_key}
        body, text = body | shown, "\n".join([text, *(f"{name}: {value}" for name, value in shown.items())])
    _print(body, text, as_json=as_json)


@users_app.command("add")
def add_user(
    name: str,
    workspace: Annotated[str, typer.Option(help="Workspace to join; made if need be.")],
    role: Annotated[str, typer.Option(help="annotator, admin or owner.")] = "annotator",
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make an account with a generated password, or add an existing one to a workspace.

    Example: argilla-setup users add ada --workspace review
    """
    from argilla_setup.server.home import load_secrets, open_home
    from argilla_setup.users import ensure_account

    place = open_home(home)
    account = ensure_account(
        _url(place), load_secrets(place).owner_api_key, name=name, workspace=workspace, role=role, folder=place.users_folder
    )
    file = place.users_folder / f"{name}.json"
    body = {"username": account.username, "role": account.role, "workspaces": list(account.workspaces), "credentials": str(file)}
    _print(body, f"{name} ({account.role}) in {', '.join(account.workspaces)}\nPassword and key: {file}", as_json=as_json)


@users_app.command("list")
def list_users(home: HomeOption = None, as_json: JsonOption = False) -> None:
    """List accounts with role and workspaces.

    Example: argilla-setup users list
    """
    from argilla_setup.server.home import load_secrets, open_home
    from argilla_setup.users import list_accounts

    place = open_home(home)
    found = list_accounts(_url(place), load_secrets(place).owner_api_key)
    _print(found, "\n".join(f"{u['username']:<20} {u['role']:<10} {', '.join(u['workspaces'])}" for u in found), as_json=as_json)


@app.command(hidden=True)
def supervise(home: Annotated[Path, typer.Option()], port: Annotated[int, typer.Option()]) -> None:
    """Keep the processes of a prepared server up; `up` starts this."""
    from argilla_setup.server.control import supervise as keep_up
    from argilla_setup.server.home import open_home

    keep_up(open_home(home), port=port)


def main() -> None:
    """The command; what a person can mend ends in one line and exit 2."""
    try:
        app()
    except UserError as error:
        print(f"argilla-setup: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)


def _url(place: Any) -> str:
    from argilla_setup.server.control import describe_server

    found = describe_server(place)
    if not found.up:
        raise UserError(f"{place.folder}", "its server is not up", f"argilla-setup up --detach --home {place.folder}")
    return found.url


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _print(value: Any, text: str, *, as_json: bool) -> None:
    print(json.dumps(value, indent=2) if as_json else text)
