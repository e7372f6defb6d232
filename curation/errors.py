"""The errors of the curation side, all `UserError`s: what, the fact, the next command."""

from __future__ import annotations

from argilla_setup.errors import UserError, command, describe_os_error

__all__ = [
    "BudgetReached",
    "ModelUnavailable",
    "ProjectError",
    "ReviewError",
    "RowError",
    "SnapshotError",
    "UnusableAnswers",
    "UserError",
    "command",
    "describe_os_error",
]


class ProjectError(UserError):
    """project.yaml or a file it names cannot be used as it is."""


class RowError(UserError):
    """One row cannot become a record. Stages count it as a failure and go on; it never ends a run."""


class ModelUnavailable(UserError):
    """A model cannot be reached, or refuses us altogether (key, permission, name)."""


class BudgetReached(UserError):
    """The next call could pass `budget_usd`; the run stops clean with what it has."""


class UnusableAnswers(UserError):
    """A model's answers cannot be used, one after the other; the run stops before it pays for more of them."""


class ReviewError(UserError):
    """Argilla cannot be reached or does not hold what we expect."""


class SnapshotError(UserError):
    """A folder is no snapshot, is damaged, is signed by someone else, or may not be used for this."""
