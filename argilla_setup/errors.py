"""Errors a person can mend: what is wrong, the fact, and the next command. Everything else propagates as it is."""

from __future__ import annotations

import shlex

from argilla_setup.shown import mask_secrets


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
