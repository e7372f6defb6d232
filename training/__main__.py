"""`python -m training` does what `train` does."""

from training.cli import main

main()
