"""The `argilla-setup` command line."""

from argilla_setup.cli.app import app, main

__all__ = ["app", "main"]
