"""Entry point of `python -m argilla_setup`, the same as `argilla-setup`."""

from argilla_setup.cli import main

main()
