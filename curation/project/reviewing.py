"""Sections `review`, `splits` and `signing`: who reviews, how rows are split, and a key that is no longer used."""

from __future__ import annotations

from pydantic import Field, model_validator

from curation.project.closed import Closed, Share


class Review(Closed):
    """Where people look at the rows."""

    argilla: str | None = None
    """Folder of `argilla-setup up --home` (its secrets are read from there), or null to use ARGILLA_API_URL and ARGILLA_API_KEY."""
    workspace: str
    overlap: int = Field(default=2, ge=1)
    """How many people answer each row."""
    annotators: tuple[str, ...] = ()
    guidelines: str | None = None
    """A Markdown file of the project's own words for annotators; they read it after the brief and before how the form works."""


class Splits(Closed):
    """Shares of the rows; clusters of near-duplicate prompts stay on one side."""

    train: Share = 0.8
    validation: Share = 0.1
    test: Share = 0.1

    @model_validator(mode="after")
    def _sum_to_one(self) -> Splits:
        if abs(self.train + self.validation + self.test - 1) > 1e-6:
            raise ValueError("train, validation and test must add up to 1")
        return self


class Signing(Closed):
    """Unused; kept so that existing files load. A project cannot vouch for its own snapshots: trust a key with `curate trust`."""

    trusted_keys: tuple[str, ...] = ()
