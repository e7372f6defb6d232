"""Sections `dedup` and `screen`: what counts as the same row, what must not leak, what every answer must satisfy."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from curation.checks import Check
from curation.project.closed import Closed


class Dedup(Closed):
    """What counts as the same row."""

    text: Literal["prompt", "completion", "both"] = "prompt"
    near: float = Field(default=0.7, ge=0.3, le=1)
    """True Jaccard similarity of character shingles at which two rows are near duplicates."""
    shingle: int = Field(default=5, ge=2, le=9)
    semantic: float | None = Field(default=0.9, ge=0.5, le=1)
    """Cosine at which two rows say the same; null: nothing is embedded, neither here nor by the screen."""
    same_label: float | None = Field(default=None, ge=0.5, le=1)
    """A lower cosine for two rows of one label; rows of different labels are never duplicates."""
    model: str = "all-MiniLM-L6-v2"
    """Any sentence-transformers model; also the vectors for find-similar in Argilla."""
    backend: Literal["auto", "torch", "openvino", "openvino-f32"] = "auto"
    """What computes the vectors; auto takes OpenVINO where it is installed, agrees with torch and is faster;
    openvino-f32 repeats on any CPU."""
    against: tuple[str, ...] = ()
    """Earlier snapshots (paths or patterns below the project, such as snapshots/*) whose rows are not made again."""
    alarm_share: float = Field(default=0.5, gt=0, le=1)
    """Share of the rows from which dropped duplicates raise an alarm; a class left empty always raises one."""
    index: str | None = "project"
    """Where sketches of released rows are kept, so that new rows are compared with every earlier snapshot: `project` (its
    folder), or redis://… for the snapshots under `against` as well; null: only those are compared, by their texts."""


class Suite(Closed):
    """A protected evaluation set: a file and its column, a split of an earlier snapshot, or a task of lm-eval."""

    file: str | None = None
    """JSONL, JSON, CSV, TSV (each also .gz) or Parquet."""
    text: str | None = None
    """Column that holds the text to protect."""
    label: str | None = None
    answer: str | None = None
    """Column that holds the expected answer; the rows' answers are compared with it."""
    snapshot: str | None = None
    """Folder of a snapshot, of this project or of another."""
    split: Literal["train", "validation", "test"] | None = None
    """Of a snapshot or a task; test when not given (of a task the first that it evaluates on)."""
    task: str | None = None
    """A task or group of lm-eval, whose documents are protected as the harness would look for them."""
    include_path: str | None = None
    """Folder with the task's YAML, where lm-eval does not ship it or its data is local."""

    @model_validator(mode="after")
    def _one_source(self) -> Suite:
        given = [name for name in ("file", "snapshot", "task") if getattr(self, name) is not None]
        if len(given) != 1:
            found = " and ".join(given) or "none of them"
            raise ValueError(f"needs one of file (with text), snapshot or task; it has {found}")
        own = {"file": {"text", "label", "answer"}, "snapshot": {"split"}, "task": {"split", "include_path"}}[given[0]]
        if foreign := [
            name for name in ("text", "label", "answer", "split", "include_path") if getattr(self, name) is not None and name not in own
        ]:
            raise ValueError(f"has `{foreign[0]}`, which does not go with `{given[0]}`")
        if self.file is not None and self.text is None:
            raise ValueError("needs `text`, the column that holds the text to protect")
        return self


class Screen(Closed):
    """Leaks and validators."""

    protected: dict[str, Suite] = Field(default_factory=dict)
    false_positive_rate: float = Field(default=0.01, gt=0, lt=0.5)
    """Share of clean rows that may be flagged, estimated against the nearest other protected items."""
    judge: bool = False
    """Whether the leak judge is asked about rows just below the cut; each costs one call."""
    model: str | None = None
    """Embedding model of the screen where it is not the one of dedup: a multilingual one finds leaks across languages."""
    checks: tuple[Check, ...] = ()
    alarm_share: float = Field(default=0.2, gt=0, le=1)
    """Share of the rows from which leaks and failed checks together raise an alarm; a class left empty always raises one."""
