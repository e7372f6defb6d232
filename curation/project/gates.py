"""Sections `dedup` and `screen`: what counts as the same row, what must not leak, what every answer must satisfy."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from curation.checks import Check
from curation.project.closed import Closed


class Dedup(Closed):
    """What counts as the same row."""

    text: Literal["prompt", "completion", "both"] = "prompt"
    near: float = Field(default=0.7, ge=0.3, le=1)
    """True Jaccard similarity of character shingles at which two rows are near duplicates."""
    shingle: int = Field(default=5, ge=2, le=9)
    semantic: float = Field(default=0.9, ge=0.5, le=1)
    """Cosine at which two rows say the same."""
    same_label: float | None = Field(default=None, ge=0.5, le=1)
    """A lower cosine for two rows of one label; rows of different labels are never duplicates."""
    model: str = "all-MiniLM-L6-v2"
    """Any sentence-transformers model; also the vectors for find-similar in Argilla."""
    backend: Literal["auto", "torch", "openvino", "openvino-f32"] = "auto"
    """What computes the vectors; auto takes OpenVINO where it is installed, agrees with torch and is faster;
    openvino-f32 repeats on any CPU."""
    against: tuple[str, ...] = ()
    """Earlier snapshots (paths or patterns below the project, such as snapshots/*) whose rows are not made again."""
    index: str | None = None
    """Where sketches of earlier snapshots are kept: `project` (in its folder) or redis://…; none: their texts are read."""


class Suite(Closed):
    """A protected evaluation set."""

    file: str
    text: str
    """Column that holds the text to protect."""
    label: str | None = None


class Screen(Closed):
    """Leaks and validators."""

    protected: dict[str, Suite] = Field(default_factory=dict)
    false_positive_rate: float = Field(default=0.01, gt=0, lt=0.5)
    """Share of clean rows that may be flagged, estimated against the nearest other protected items."""
    checks: tuple[Check, ...] = ()
