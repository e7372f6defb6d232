"""`python -m argilla_setup` is `argilla-setup`."""

from argilla_setup.cli import main

main()
