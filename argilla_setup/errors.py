"""Errors a person can mend: what is wrong, the fact, and the next command. Everything else propagates as it is."""

from __future__ import annotations

import errno
import shlex

from argilla_setup.shown import mask_secrets

_SPACE, _RIGHTS = "make space on the disk (what was done is kept)", "see that you may read and write there"
SYSTEM_ERRORS = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT, errno.EFBIG), _SPACE),
    **dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS), _RIGHTS),
    **dict.fromkeys((errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.ELOOP), "check the path"),
}
"""Errors of the system about a file that a command reads or writes, and the next step."""


class UserError(Exception):
    """A problem that the user can fix; the command lines print it as one line and exit 2. Passwords in addresses are masked.

    Args:
        what: the thing that is wrong, named ("project.yaml: plan.rows").
        fact: what was found ("is -3; it must be 1 or more").
        next_step: the command or the edit that mends it.
    """

    def __init__(self, what: str, fact: str = "", next_step: str = "") -> None:
        self.what, self.fact, self.next_step = what, fact, next_step = mask_secrets(what), mask_secrets(fact), mask_secrets(next_step)
        super().__init__(": ".join(part for part in (what, fact) if part) + (f". Next: {next_step}" if next_step else ""))


def command(*words: object) -> str:
    """A command as a person can paste it: words with spaces or signs in them are quoted."""
    return " ".join(shlex.quote(str(word)) for word in words)


def describe_os_error(error: OSError) -> str | None:
    """Return an error of the system as one sentence, or None where a person cannot correct its cause."""
    if error.errno not in SYSTEM_ERRORS:
        return None
    return f"{error.filename or 'a file that was being written'}: {error.strerror}. Next: {SYSTEM_ERRORS[error.errno]} and run again"
