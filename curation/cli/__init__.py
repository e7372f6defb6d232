"""The `curate` command: parse, call one function of the pipeline, show its summary. Nothing heavy is imported before a verb runs."""

from __future__ import annotations

from argilla_setup.command_line import echo

from curation.cli import stages, describe, snapshots, inspect, simulate  # isort: skip  (in the order of --help)
from curation.cli.app import app
from curation.errors import UserError, describe_os_error
from curation.library_logging import quiet_libraries

__all__ = ["app", "describe", "inspect", "main", "quiet_libraries", "simulate", "snapshots", "stages"]


def main() -> None:
    """Run the command line; an error a person can mend is one line on stderr and exit 2."""
    quiet_libraries()
    try:
        app()
    except UserError as error:
        echo(f"Error: {' '.join(str(error).split())}", err=True)
        raise SystemExit(2) from None
    except OSError as error:
        if (sentence := describe_os_error(error)) is None:
            raise
        echo(f"Error: {sentence}", err=True)
        raise SystemExit(2) from None
