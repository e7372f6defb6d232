"""The `curate` command: parse, call one function of the pipeline, show its summary. Nothing heavy is imported before a verb runs."""

from __future__ import annotations

import errno

from argilla_setup.command_line import echo

from curation.cli import stages, describe, frozen, rows, standin  # isort: skip  (in the order of --help)
from curation.cli.app import app, quiet_libraries
from curation.errors import UserError

__all__ = ["app", "describe", "frozen", "main", "quiet_libraries", "rows", "stages", "standin"]


_SPACE, _RIGHTS = "make space on the disk (what was done is kept)", "see that you may read and write there"
MENDABLE = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT, errno.EFBIG), _SPACE),
    **dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS), _RIGHTS),
    **dict.fromkeys((errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG), "look at the path"),
}
"""What the system may say of any file that a command reads or writes, and what a person does about it."""


def main() -> None:
    """Run the command line; an error a person can mend is one line on stderr and exit 2."""
    quiet_libraries()
    try:
        app()
    except UserError as error:
        echo(f"Error: {' '.join(str(error).split())}", err=True)
        raise SystemExit(2) from None
    except OSError as error:
        if error.errno not in MENDABLE:
            raise
        file = error.filename or "a file that was being written"
        echo(f"Error: {file}: {error.strerror}. Next: {MENDABLE[error.errno]} and run again", err=True)
        raise SystemExit(2) from None
