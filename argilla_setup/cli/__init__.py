"""`argilla-setup`: Argilla on this machine, for a team of one or a few."""

# Their order is the order of the help.
from argilla_setup.cli import server  # noqa: F401, I001
from argilla_setup.cli import users  # noqa: F401
from argilla_setup.cli import maintenance  # noqa: F401
from argilla_setup.cli.app import app, main

__all__ = ["app", "main"]
