"""Sections `review`, `splits` and `signing`: who reviews, how rows are split, and a key that is no longer used."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from curation.project.closed import Closed, Share

ReviewMode = Literal["none", "sample", "all"]


class Review(Closed):
    """Which rows people look at, and where. In project.yaml also one word: `review: none`, `sample` or `all`."""

    mode: ReviewMode = "all"
    """`all` rows, a random `sample` of them, or `none`; recorded in every snapshot and refused by `train` unless its run file agrees."""
    sample: int = Field(default=200, ge=1)
    """With mode sample: rows of each kind that people look at, drawn at random, by label in proportion where there are labels."""
    max_error: Share | None = None
    """With mode sample: the other rows leave only if the upper end of the error rate's 95 % interval is at most this; null: they
    leave once the sample is answered, whatever the rate."""
    argilla: str | None = None
    """Folder of `argilla-setup up --home` (its secrets are read from there), or null to use ARGILLA_API_URL and ARGILLA_API_KEY."""
    workspace: str = ""
    """By default the project's name."""
    overlap: int = Field(default=2, ge=1)
    """How many people answer each row."""
    annotators: tuple[str, ...] = ()
    names: Literal["pseudonyms", "real"] = "pseudonyms"
    """How snapshots name the annotators: by pseudonyms that only workbench.db can resolve, or by their user names. Recorded in the
    manifest."""
    guidelines: str | None = None
    """A Markdown file of the project's own words for annotators; they read it after the brief and before how the form works."""

    filters: tuple[str, ...] = ()
    """Metadata columns of imported rows that annotators see in Argilla and may filter by."""

    @model_validator(mode="before")
    @classmethod
    def _by_name(cls, given: Any) -> Any:
        return {"mode": given} if isinstance(given, str) else given

    @model_validator(mode="after")
    def _samples_where_it_says_so(self) -> Review:
        if self.mode != "sample" and (given := sorted(self.model_fields_set & {"sample", "max_error"})):
            raise ValueError(f"{given[0]} goes with mode: sample; the mode is {self.mode}")
        return self


class Splits(Closed):
    """Shares of the rows, and from which similarity on prompts have to be in one split."""

    train: Share = 0.8
    validation: Share = 0.1
    test: Share = 0.1
    near: float | None = Field(default=0.7, ge=0.3, le=1)
    """Jaccard similarity of character shingles, whatever `dedup.near` is; null: only equal prompts and groups stay together."""
    semantic: float | None = Field(default=0.9, ge=0.5, le=1)
    """Cosine of the embeddings of `dedup.model`; null, or a project that embeds nothing: prompts are not compared by meaning."""

    group: str | None = None
    """A metadata column of imported rows (a customer, a document): rows of one value stay in one split."""

    @model_validator(mode="after")
    def _sum_to_one(self) -> Splits:
        if abs(self.train + self.validation + self.test - 1) > 1e-6:
            raise ValueError("train, validation and test must add up to 1")
        return self


class Signing(Closed):
    """Unused; kept so that existing files load. A project cannot vouch for its own snapshots: trust a key with `curate trust`."""

    trusted_keys: tuple[str, ...] = ()
