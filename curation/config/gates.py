"""Sections `dedup` and `screen`: what counts as the same row, what must not leak, what every answer must satisfy."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, model_validator

from curation.config.base import Closed, Share
from curation.validate.schema import Check

FOUND_TOPIC = "found_topic"
"""Balance by the topics that `curate describe` finds."""


class Describe(Closed):
    """How `curate describe` and `curate compare` count."""

    topics: int | None = Field(default=None, ge=2, le=200)
    """Topics to find; by default about the root of an eighth of the rows, at most 24."""
    region: str | None = Field(default="US", pattern=r"^[A-Z]{2}$")
    """Country whose phone numbers are known without +; null to find only those with it."""
    tokenizer: str | None = None
    """Folder of your base model (or a tokenizer.json) whose tokens are counted; by default the embedding model's."""


class Balance(Closed):
    """By what the rows are balanced, and how. Without `by` nothing is."""

    by: str | None = None
    """`label`, the name of a plan attribute or of the grounding topic, `found_topic`, or a metadata column of imported rows."""
    cap: int | None = Field(default=None, ge=1)
    """Most rows a class may have in a snapshot; further ones, worst first, are left out and not sent to review."""
    weight: Literal["sqrt", "inverse"] | None = None
    """Weights for the classes, told in the snapshot's manifest; the trainer here does not read them."""
    refill: int | None = Field(default=None, ge=1)
    """Rows each class should have; what is missing is asked of the plan."""

    @model_validator(mode="after")
    def _says_by_what(self) -> Balance:
        if self.by is None and (self.cap or self.weight or self.refill):
            raise ValueError("by is missing: label, the name of a plan attribute, or found_topic")
        if self.cap is not None and self.refill is not None and self.refill > self.cap:
            raise ValueError(f"refill ({self.refill}) is above cap ({self.cap}): rows would be written and left out again")
        return self


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


DEFAULT_RUBRIC = {
    "accuracy": "Is every statement of the answer true and does it answer what was asked?",
    "clarity": "Is it well put, complete and easy to read?",
    "usefulness": "Would a learner of this task be better for this example?",
    "on_brief": "Does it fit the brief, the attributes and the output format?",
}


class Score(Closed):
    """The rubric and the rule that keeps."""

    rubric: dict[str, str] = DEFAULT_RUBRIC
    """Criterion to question. `score: null` in project.yaml means no criteria: no judge scores the rows."""
    threshold: float = Field(default=7.0, ge=0, le=10)
    """Keep rows whose total (0 to 10) reaches this."""
    top_percent: float | None = Field(default=None, gt=0, le=100)
    """Instead of the threshold, keep the best N % of the scored rows."""
    top_by: str | None = None
    """With top_percent: the best N % within each value of this attribute (or `topic`), so that a hard topic is not emptied."""
    panel: Literal["auto", "always", "never"] = "auto"
    """Whether the judges under `models: panel` score too; `auto` asks them while they cost at most a tenth of the writing."""
    combine: Literal["mean", "median"] = "mean"
    """How the totals of several judges become one."""
    repeat: int = Field(default=0, ge=0, le=10_000)
    """Rows that each judge scores a second time, to see whether it agrees with itself; the second scores decide nothing."""

    difficulty: bool = False
    """Whether the judge also says how hard each row is (1 to 5), which the report sets beside the plan's `difficulty`. It decides
    nothing. Turning it on or off makes the judge score every row again."""

    @model_validator(mode="after")
    def _has_a_part_to_take(self) -> Score:
        if self.top_by is not None and self.top_percent is None:
            raise ValueError("top_by says within what the best part is taken, so it needs top_percent")
        return self

    @model_validator(mode="before")
    @classmethod
    def _null_is_off(cls, given: Any) -> Any:
        if isinstance(given, Mapping) and not given.get("rubric", DEFAULT_RUBRIC):
            raise ValueError("rubric needs a criterion; write `score: null` for a project without a judge")
        return {"rubric": {}} if given is None else given

    @property
    def is_off(self) -> bool:
        """Whether no judge scores the rows (`score: null`)."""
        return not self.rubric

    @model_validator(mode="after")
    def _names_are_free(self) -> Score:
        if {"overall", "total"} & self.rubric.keys():
            raise ValueError("rubric: none may be called overall or total")
        if self.difficulty and (self.is_off or "difficulty" in self.rubric):
            raise ValueError("difficulty: true needs a rubric, and no criterion may then be called difficulty")
        for name in self.rubric:
            if not re.fullmatch(r"[a-z0-9][a-z0-9_-]{0,60}", name):
                raise ValueError(f"rubric: {name!r} cannot name a score; use small letters, digits, - and _")
        return self
