"""`argilla-setup`: Argilla on this machine, for a team of one or a few."""

# Their order is the order of the help.
from argilla_setup.cli import running  # noqa: F401, I001
from argilla_setup.cli import people  # noqa: F401
from argilla_setup.cli import keeping  # noqa: F401
from argilla_setup.cli.app import app, main

__all__ = ["app", "main"]
