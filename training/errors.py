"""Errors of the training half that a user can fix."""

from __future__ import annotations

from curation.errors import UserError


class RunFileError(UserError):
    """A run file with a missing, unknown or wrong setting."""


class TrainingError(UserError):
    """A run that must not start or continue: something it depends on is missing, changed or of the wrong kind."""
