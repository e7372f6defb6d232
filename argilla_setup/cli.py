"""The commands of `argilla-setup`: run Argilla on this machine for a team of one or a few.

Each command imports what it needs when it runs, so that `--help` stays fast. Progress goes to standard error, the result as text or
JSON to standard output. Errors that a user can fix are one line and exit code 2.
"""

from __future__ import annotations

import os
import re
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from argilla_setup.command_line import QuotingGroup, echo
from argilla_setup.command_line import as_json as json_of
from argilla_setup.errors import UserError, describe_os_error
from argilla_setup.shown import mask_values

app = typer.Typer(
    cls=QuotingGroup,
    help="Run Argilla, the review tool, on this machine: its page, its users, its secrets, its backups.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
HomeOption = Annotated[Path | None, typer.Option("--home", help="Folder of the server's state. Default: the user's data folder.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
_STORE_HELP = "; `local` for the built-in one, @FILE to read it from a file. Saved for later starts."


def main() -> None:
    """Run the command line."""
    try:
        app()
    except UserError as error:
        echo(f"argilla-setup: {' '.join(str(error).split())}", err=True)
        sys.exit(2)
    except OSError as error:
        if (sentence := describe_os_error(error)) is None:
            raise
        echo(f"argilla-setup: {sentence}", err=True)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)


@app.command()
def up(
    home: HomeOption = None,
    port: Annotated[int | None, typer.Option(help="Port; 0 for any free one. Default: the saved one, or 6900.")] = None,
    detach: Annotated[bool, typer.Option("--detach", help="Leave the server running and return.")] = False,
    host: Annotated[str | None, typer.Option(help="Address to listen on. Default: the saved one, or 127.0.0.1.")] = None,
    origin: Annotated[list[str] | None, typer.Option(help="Public address of a proxy in front of the server. May be repeated.")] = None,
    database_url: Annotated[str | None, typer.Option(help="Postgres, as postgresql://…" + _STORE_HELP)] = None,
    redis_url: Annotated[str | None, typer.Option(help="Redis, as redis://…" + _STORE_HELP)] = None,
    elasticsearch_url: Annotated[str | None, typer.Option(help="Elasticsearch, as http://…" + _STORE_HELP)] = None,
    as_json: JsonOption = False,
) -> None:
    """Start Argilla. The first start builds its environment.

    ARGILLA_DATABASE_URL, ARGILLA_REDIS_URL and ARGILLA_ELASTICSEARCH are used where the options are not given.

    Example: argilla-setup up --detach
    """
    from argilla_setup.server.control import run_foreground, start_detached
    from argilla_setup.server.home import open_home
    from argilla_setup.server.settings import StartOptions

    place = open_home(home)
    options = StartOptions(host, tuple(origin or ()), database_url, redis_url, elasticsearch_url)
    if not detach:
        run_foreground(place, port=port, notify=_notify, options=options)
        return
    status = start_detached(place, port=port, notify=_notify, options=options)
    lines = [
        f"Argilla at {status.url}",
        f"Log in as owner with the password in {place.secrets_file}",
        f"Stop it: argilla-setup down --home {place.folder}",
    ]
    _show({**asdict(status), "secrets_file": str(place.secrets_file)}, "\n".join(lines), as_json=as_json)


@app.command()
def down(home: HomeOption = None, as_json: JsonOption = False) -> None:
    """Stop Argilla; its data stays.

    Example: argilla-setup down
    """
    from argilla_setup.server.control import stop_server
    from argilla_setup.server.home import open_home
    from argilla_setup.server.processes import find_conflict

    place = open_home(home)
    conflict = find_conflict(place)
    count = stop_server(place)
    text = f"Stopped {count} processes" if count else "Argilla was not running"
    if conflict is not None and conflict.kind != "moved":
        text = f"{text} here.\n{conflict.sentence(place)}"
    _show({"stopped": count}, text, as_json=as_json)


@app.command()
def status(home: HomeOption = None, as_json: JsonOption = False) -> None:
    """Show whether Argilla runs, its address and what it holds. Exit code 1 when it is not healthy.

    Example: argilla-setup status --json
    """
    from argilla_setup.server.control import describe_server
    from argilla_setup.server.home import open_home

    found = describe_server(open_home(home))
    word = "up and healthy" if found.healthy else "up but not answering" if found.up else "down"
    lines = [f"Argilla is {word}: {found.url}", f"State: {found.home}", *filter(None, [found.note])]
    lines += [f"  {name}: process {pid}" for name, pid in found.processes.items()]
    lines += [f"  {name}: {url}" for name, url in found.stores.items()]
    lines += [f"  {count} {name}" for name, count in found.counts.items()]
    _show(asdict(found), "\n".join(lines), as_json=as_json)
    if not found.healthy:
        raise typer.Exit(1)


@app.command()
def logs(
    home: HomeOption = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Keep printing new lines until Ctrl-C.")] = False,
    process: Annotated[str | None, typer.Option(help="supervisor, valkey, web, worker, prepare … Default: all that run.")] = None,
    lines: Annotated[int, typer.Option("--lines", "-n", help="Number of last lines of each log.")] = 50,
) -> None:
    """Show the logs of the server's processes.

    Example: argilla-setup logs --follow --process web
    """
    from argilla_setup.server.home import open_home
    from argilla_setup.server.logs import show_logs

    show_logs(open_home(home), process=process, lines=lines, follow=follow, notify=echo)


@app.command()
def doctor(
    home: HomeOption = None,
    fix: Annotated[bool, typer.Option("--fix", help="Fix what can be fixed without losing data.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Check processes, port, disk, database, index, file permissions and environment. Exit code 1 when something is wrong.

    Example: argilla-setup doctor --fix
    """
    from argilla_setup.server.doctor import examine
    from argilla_setup.server.home import open_home

    found = examine(open_home(home), fix=fix)
    lines = []
    for finding in found:
        lines.append(f"{'fixed' if finding.fixed else finding.level:<7}{finding.about:<12}{finding.text}")
        if finding.next_step and not finding.fixed:
            lines.append(f"{'':<19}Next: {finding.next_step}")
    _show([asdict(finding) for finding in found], "\n".join(lines), as_json=as_json)
    if any(finding.level == "wrong" and not finding.fixed for finding in found):
        raise typer.Exit(1)


@app.command(hidden=True)
def supervise(home: Annotated[Path, typer.Option()], port: Annotated[int, typer.Option()]) -> None:
    """Supervise the processes of a prepared server; `up` starts this command."""
    from argilla_setup.server.control import supervise as run_supervisor
    from argilla_setup.server.home import open_home

    run_supervisor(open_home(home), port=port, notify=echo)


users_app = typer.Typer(help="Manage accounts.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(users_app, name="users")


@users_app.command("add")
def add_user(
    name: str,
    workspace: Annotated[str, typer.Option(help="Workspace to join; created if necessary.")],
    role: Annotated[str, typer.Option(help="annotator, admin or owner.")] = "annotator",
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Create an account with a generated password, or add an existing one to a workspace.

    Without --home, ARGILLA_API_URL and ARGILLA_API_KEY name another Argilla, for example that of docker-compose.yml.

    Example: argilla-setup users add ada --workspace review
    """
    from argilla_setup.users import ensure_account

    url, key, folder = _connection(home)
    account = ensure_account(url, key, name=name, workspace=workspace, role=role, folder=folder)
    file = folder / f"{name}.json"
    saved = "Password and key" if account.password else "Key (the password is unknown; users rotate-key sets a new one)"
    body = {"username": account.username, "role": account.role, "workspaces": list(account.workspaces), "credentials": str(file)}
    _show(body, f"{name} ({account.role}) in {', '.join(account.workspaces)}\n{saved}: {file}", as_json=as_json)


@users_app.command("list")
def list_users(home: HomeOption = None, as_json: JsonOption = False) -> None:
    """List accounts with role and workspaces.

    Example: argilla-setup users list
    """
    from argilla_setup.users import list_accounts

    url, key, _ = _connection(home)
    found = list_accounts(url, key)
    _show(found, "\n".join(f"{u['username']:<20} {u['role']:<10} {', '.join(u['workspaces'])}" for u in found), as_json=as_json)


@users_app.command("rotate-key")
def rotate_key(name: str, home: HomeOption = None, as_json: JsonOption = False) -> None:
    """Give an account a new password and key; the old ones are refused at once. An open page stays logged in for at most a day.

    Example: argilla-setup users rotate-key ada
    """
    from argilla_setup.server.home import open_home
    from argilla_setup.users import renew_credentials

    file = renew_credentials(open_home(home), name)
    _show({"username": name, "credentials": str(file)}, f"{name}: new password and key in {file}", as_json=as_json)


@users_app.command("remove")
def remove_user(name: str, home: HomeOption = None, as_json: JsonOption = False) -> None:
    """Lock an account out: remove it from every workspace and replace its password and key. Its responses stay.

    Example: argilla-setup users remove ada
    """
    from argilla_setup.server.home import open_home
    from argilla_setup.users import lock_out

    lock_out(open_home(home), name)
    _show({"username": name, "removed": True}, f"{name} is locked out; the responses stay", as_json=as_json)


@app.command()
def secrets(
    home: HomeOption = None,
    show_them: Annotated[bool, typer.Option("--show", help="Print the secrets themselves.")] = False,
    compose: Annotated[Path | None, typer.Option(help="Write new secrets for docker-compose.yml into this folder.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Show the file that holds the owner's password and key.

    Example: argilla-setup secrets --show
    """
    from argilla_setup.server.home import load_secrets, open_home, write_compose_secrets

    if compose is not None:
        files = write_compose_secrets(compose)
        _show({"files": [str(f) for f in files]}, "\n".join(f"{f}" for f in files), as_json=as_json)
        return
    place = open_home(home)
    found = load_secrets(place)
    body: dict[str, Any] = {"secrets_file": str(place.secrets_file), "users_folder": str(place.users_folder)}
    text = f"{place.secrets_file}\nUsers' credentials: {place.users_folder}"
    if show_them:
        shown = {"owner": found.owner_username, "password": found.owner_password, "api_key": found.owner_api_key}
        body, text = body | shown, "\n".join([text, *(f"{name}: {value}" for name, value in shown.items())])
    _show(body, text, as_json=as_json)


@app.command()
def backup(file: Path, home: HomeOption = None, as_json: JsonOption = False) -> None:
    """Write database, secrets and credentials into one private file. The server may run; no response is lost.

    Example: argilla-setup backup review-2026-11-24.tar.gz
    """
    from argilla_setup.server.backup import write_backup
    from argilla_setup.server.home import open_home
    from argilla_setup.server.processes import find_conflict

    place = open_home(home)
    if conflict := find_conflict(place):
        _notify(conflict.sentence(place))
    made = write_backup(place, file.expanduser().resolve())
    contents = ", ".join(f"{count} {name}" for name, count in made.counts.items())
    _show(asdict(made), f"{made.file}: {contents}. It contains passwords: store it as securely as those.", as_json=as_json)


@app.command()
def restore(
    file: Path,
    home: HomeOption = None,
    replace: Annotated[bool, typer.Option("--replace", help="Move the folder's contents aside instead of refusing.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Restore a backup into a state folder whose server does not run; the next start rebuilds the search index.

    Example: argilla-setup restore review-2026-11-24.tar.gz --home review
    """
    from argilla_setup.server.backup import restore_backup
    from argilla_setup.server.home import open_home

    place = open_home(home)
    made = restore_backup(place, file.expanduser().resolve(), replace=replace)
    contents = ", ".join(f"{count} {name}" for name, count in made.counts.items())
    text = f"{place.folder}: {contents}, as of {made.created}\nNext: argilla-setup up --detach --home {place.folder}"
    _show(asdict(made) | {"home": str(place.folder)}, text, as_json=as_json)


@app.command()
def upgrade(home: HomeOption = None, as_json: JsonOption = False) -> None:
    """Move to this release's environment: build it, back up and migrate the database, and restart the server if it was running.

    Example: argilla-setup upgrade
    """
    from argilla_setup.server.control import upgrade_server
    from argilla_setup.server.home import open_home

    done = upgrade_server(open_home(home), notify=_notify)
    text = f"Upgraded to environment {done.lock}" + (" and restarted the server" if done.restarted else "")
    _show(asdict(done), text if done.changed else f"Environment {done.lock} is up to date", as_json=as_json)


def _connection(home: Path | None) -> tuple[str, str, Path]:
    """Return URL, owner's key and credentials folder of the server in a folder, or of the one that the environment names."""
    from argilla_setup.server.control import describe_server, refuse_moved
    from argilla_setup.server.home import load_secrets, open_home
    from argilla_setup.server.processes import find_conflict

    url, key = os.environ.get("ARGILLA_API_URL", ""), os.environ.get("ARGILLA_API_KEY", "")
    if home is None and url and key:
        from platformdirs import user_data_path

        host = re.sub(r"[^A-Za-z0-9.-]+", "-", url.partition("://")[2]).strip("-")
        return url, key, user_data_path("seedcorn") / "accounts" / host
    place = open_home(home)
    refuse_moved(place)
    found = describe_server(place)
    if not found.up:
        conflict = find_conflict(place)
        fact = conflict.fact if conflict is not None else "its server is not up"
        raise UserError(f"{place.folder}", fact, f"argilla-setup up --detach --home {place.folder}")
    return found.url, load_secrets(place).owner_api_key, place.users_folder


def _notify(text: str) -> None:
    echo(text, err=True)


def _show(value: Any, text: str, *, as_json: bool) -> None:
    if as_json:
        print(json_of(mask_values(value), indent=2))
    else:
        echo(text)
