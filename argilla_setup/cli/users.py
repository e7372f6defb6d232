"""Commands for accounts and secrets."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Annotated, Any

import typer

from argilla_setup.cli.app import HomeOption, JsonOption, app, show
from argilla_setup.errors import UserError

users_app = typer.Typer(help="Who may log in.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(users_app, name="users")


@users_app.command("add")
def add_user(
    name: str,
    workspace: Annotated[str, typer.Option(help="Workspace to join; made if need be.")],
    role: Annotated[str, typer.Option(help="annotator, admin or owner.")] = "annotator",
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make an account with a generated password, or add an existing one to a workspace.

    Without --home, ARGILLA_API_URL and ARGILLA_API_KEY name another Argilla, for example that of docker-compose.yml.

    Example: argilla-setup users add ada --workspace review
    """
    from argilla_setup.users import ensure_account

    url, key, folder = _server(home)
    account = ensure_account(url, key, name=name, workspace=workspace, role=role, folder=folder)
    file = folder / f"{name}.json"
    known = "Password and key" if account.password else "Key (Argilla does not tell the password; users rotate-key makes a new one)"
    body = {"username": account.username, "role": account.role, "workspaces": list(account.workspaces), "credentials": str(file)}
    show(body, f"{name} ({account.role}) in {', '.join(account.workspaces)}\n{known}: {file}", as_json=as_json)


@users_app.command("list")
def list_users(home: HomeOption = None, as_json: JsonOption = False) -> None:
    """List accounts with role and workspaces.

    Example: argilla-setup users list
    """
    from argilla_setup.users import list_accounts

    url, key, _ = _server(home)
    found = list_accounts(url, key)
    show(found, "\n".join(f"{u['username']:<20} {u['role']:<10} {', '.join(u['workspaces'])}" for u in found), as_json=as_json)


@users_app.command("rotate-key")
def rotate_key(name: str, home: HomeOption = None, as_json: JsonOption = False) -> None:
    """Give an account a new password and key; the old ones are refused at once. A page that is open stays open for at most a day.

    Example: argilla-setup users rotate-key ada
    """
    from argilla_setup.server.home import open_home
    from argilla_setup.users import renew_credentials

    file = renew_credentials(open_home(home), name)
    show({"username": name, "credentials": str(file)}, f"{name}: new password and key in {file}", as_json=as_json)


@users_app.command("remove")
def remove_user(name: str, home: HomeOption = None, as_json: JsonOption = False) -> None:
    """Lock an account out: no workspace, no password, no key. What the person answered stays, under their name.

    Example: argilla-setup users remove ada
    """
    from argilla_setup.server.home import open_home
    from argilla_setup.users import lock_out

    lock_out(open_home(home), name)
    show({"username": name, "removed": True}, f"{name} is locked out; the answers stay", as_json=as_json)


@app.command()
def secrets(
    home: HomeOption = None,
    show_them: Annotated[bool, typer.Option("--show", help="Print the secrets themselves.")] = False,
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
        show({"files": [str(f) for f in files]}, "\n".join(f"{f}" for f in files), as_json=as_json)
        return
    place = open_home(home)
    found = load_secrets(place)
    body: dict[str, Any] = {"secrets_file": str(place.secrets_file), "users_folder": str(place.users_folder)}
    text = f"{place.secrets_file}\nUsers' credentials: {place.users_folder}"
    if show_them:
        shown = {"owner": found.owner_username, "password": found.owner_password, "api_key": found.owner_api_key}
        body, text = body | shown, "\n".join([text, *(f"{name}: {value}" for name, value in shown.items())])
    show(body, text, as_json=as_json)


def _server(home: Path | None) -> tuple[str, str, Path]:
    """Return address, owner's key and folder for credentials of the server in a folder, or of the one that the environment names."""
    from argilla_setup.server.control import refuse_moved
    from argilla_setup.server.home import load_secrets, open_home
    from argilla_setup.server.processes import find_elsewhere
    from argilla_setup.server.status import describe_server

    url, key = os.environ.get("ARGILLA_API_URL", ""), os.environ.get("ARGILLA_API_KEY", "")
    if home is None and url and key:
        from platformdirs import user_data_path

        host = re.sub(r"[^A-Za-z0-9.-]+", "-", url.partition("://")[2]).strip("-")
        return url, key, user_data_path("seedcorn") / "accounts" / host
    place = open_home(home)
    refuse_moved(place)
    found = describe_server(place)
    if not found.up:
        elsewhere = find_elsewhere(place)
        fact = elsewhere.fact if elsewhere is not None else "its server is not up"
        raise UserError(f"{place.folder}", fact, f"argilla-setup up --detach --home {place.folder}")
    return found.url, load_secrets(place).owner_api_key, place.users_folder
