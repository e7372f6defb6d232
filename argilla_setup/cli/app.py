"""The command line's root, and what its commands share."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from argilla_setup.errors import UserError

app = typer.Typer(
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
        print(f"argilla-setup: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)


def say(text: str) -> None:
    """Tell a person what goes on; standard output is for the result."""
    print(text, file=sys.stderr, flush=True)


def show(value: Any, text: str, *, as_json: bool) -> None:
    """The result, for a program or for a person."""
    print(json.dumps(value, indent=2) if as_json else text)
