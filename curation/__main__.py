"""`python -m curation` does what `curate` does."""

from curation.cli import main

main()
