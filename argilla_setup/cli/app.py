"""The command line's root, and what its commands share."""

from __future__ import annotations

import sys
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


def main() -> None:
    """The command; what a person can mend ends in one line and exit 2."""
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


def say(text: str) -> None:
    """Tell a person what goes on; standard output is for the result."""
    echo(text, err=True)


def show(value: Any, text: str, *, as_json: bool) -> None:
    """The result, for a program or for a person."""
    if as_json:
        print(json_of(mask_values(value), indent=2))
    else:
        echo(text)
