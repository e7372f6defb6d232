"""project.yaml: what people decide, as frozen values. A closed schema; an unknown key is a sentence with a suggestion,
never a silent default. Secrets never stand here.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from curation.checks import Check
from curation.errors import ProjectError
from curation.records import Kind, canonical_json
from curation.yaml_file import describe_error, read_yaml

VERSION = 1


class Closed(BaseModel):
    """Frozen, and unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


Share = Annotated[float, Field(ge=0, le=1)]


class Price(Closed):
    """US dollars per million tokens, for a model that the shipped price file does not know."""

    input: float = Field(ge=0)
    output: float = Field(ge=0)


class ModelSpec(Closed):
    """A model and who serves it."""

    provider: Literal["anthropic", "offline-stand-in"] = "anthropic"
    """`offline-stand-in` answers on this machine with made-up text: for trying things out, never for real data."""
    model: str
    base_url: str | None = None
    """Another address that speaks the Messages API; for the stand-in, the address it was started on."""
    max_tokens: int = Field(default=1024, ge=16)
    concurrency: int = Field(default=8, ge=1, le=256)
    batch: bool = False
    """Send by Message Batches: half the price, answers within 24 hours."""
    price: Price | None = None


class Models(Closed):
    """Who writes and who judges."""

    teacher: ModelSpec
    judge: ModelSpec


class Budget(Closed):
    """The hard cap on what all calls of this project may cost."""

    usd: float = Field(default=5.0, gt=0)


class Grounding(Closed):
    """A table whose rows the examples are written about, one row a cell."""

    table: str
    key: str
    where: str | None = None
    """Name of a true/false column: only its true rows are written about."""
    topic: str | None = None
    """Column whose values share the rows evenly."""
    show: tuple[str, ...] = ()
    """Columns given to the teacher, and to the judge as the reference."""
    siblings: str | None = None
    """Column whose equal value makes two rows plausible confusions of each other; needed for preference pairs."""
    sibling_where: str | None = None
    """Name of a true/false column that a confusion must satisfy."""


class Plan(Closed):
    """How many examples of what."""

    seed: int = 7
    instruction: int = Field(default=0, ge=0)
    """Instruction examples to write."""
    preference: int = Field(default=0, ge=0)
    """Preference pairs to write."""
    attributes: dict[str, dict[str, float]] = {}
    """For each attribute its values and their weights, for example difficulty: {basic: 5, intermediate: 3, advanced: 2}."""
    grounding: Grounding | None = None
    examples_shown: int = Field(default=3, ge=0, le=20)
    """Seed examples shown to the teacher in each request."""


class RecordRules(Closed):
    """How a generated example becomes a record."""

    system: str | None = None
    """Standing system message of every record."""
    label_pattern: str | None = None
    """Regular expression on the completion; its first group is the record's label."""
    output_format: str = ""
    """Told to the teacher and the judge: what an answer must look like."""

    @model_validator(mode="after")
    def _compiles(self) -> RecordRules:
        if self.label_pattern is None:
            return self
        try:
            groups = re.compile(self.label_pattern).groups
        except re.error as error:
            raise ValueError(f"label_pattern is not a regular expression: {error}") from error
        if groups < 1:
            raise ValueError("label_pattern needs one group in parentheses")
        return self


DEFAULT_RUBRIC = {
    "accuracy": "Is every statement of the answer true and does it answer what was asked?",
    "clarity": "Is it well put, complete and easy to read?",
    "usefulness": "Would a learner of this task be better for this example?",
    "on_brief": "Does it fit the brief, the attributes and the output format?",
}


class Score(Closed):
    """The rubric and the rule that keeps."""

    rubric: dict[str, str] = DEFAULT_RUBRIC
    threshold: float = Field(default=7.0, ge=0, le=10)
    """Keep rows whose total (0 to 10) reaches this."""
    top_percent: float | None = Field(default=None, gt=0, le=100)
    """Instead of the threshold, keep the best N % of the scored rows."""

    @model_validator(mode="after")
    def _names_are_free(self) -> Score:
        if not self.rubric or {"overall", "total"} & self.rubric.keys():
            raise ValueError("rubric needs a criterion, and none may be called overall or total")
        for name in self.rubric:
            if not re.fullmatch(r"[a-z0-9][a-z0-9_-]{0,60}", name):
                raise ValueError(f"rubric: {name!r} cannot name a score; use small letters, digits, - and _")
        return self


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


class Suite(Closed):
    """A protected evaluation set."""

    file: str
    text: str
    """Column that holds the text to protect."""
    label: str | None = None


class Screen(Closed):
    """Leaks and validators."""

    protected: dict[str, Suite] = {}
    false_positive_rate: float = Field(default=0.01, gt=0, lt=0.5)
    """Share of clean rows that may be flagged, estimated against the nearest other protected items."""
    checks: tuple[Check, ...] = ()


class Review(Closed):
    """Where people look at the rows."""

    argilla: str | None = None
    """Folder of `argilla-setup up --home` (its secrets are read from there), or null to use ARGILLA_API_URL and ARGILLA_API_KEY."""
    workspace: str
    overlap: int = Field(default=2, ge=1)
    """How many people answer each row."""
    annotators: tuple[str, ...] = ()


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
    """Whose signatures this project trusts."""

    trusted_keys: tuple[str, ...] = ()


class Project(Closed):
    """The whole file."""

    version: Literal[1]
    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,40}$")
    brief: str
    intended_use: str
    """What the fine-tuned model is for; recorded in every snapshot (providers' terms depend on it)."""
    licence: str = "other"
    models: Models
    budget: Budget = Budget()
    plan: Plan
    records: RecordRules = RecordRules()
    score: Score = Score()
    dedup: Dedup = Dedup()
    screen: Screen = Screen()
    review: Review
    splits: Splits = Splits()
    signing: Signing = Signing()


def load_project(folder: Path) -> Project:
    """Read FOLDER/project.yaml.

    Raises:
        ProjectError: missing file, broken YAML, or a key that does not fit, with its path and a suggestion.
    """
    path = folder / "project.yaml"
    if not path.is_file():
        raise ProjectError(str(path), "there is no such file", f"curate init {folder} --template blank")
    value = read_yaml(path)
    if not isinstance(value, dict):
        raise ProjectError(str(path), "holds no keys", f"curate init {folder}-new --template blank")
    try:
        project = Project.model_validate(value)
    except ValidationError as error:
        raise ProjectError(*describe_error(error, Project, path)) from error
    if is_open(project.brief):
        raise ProjectError(f"{path}: brief", "is not filled in", "write what the model should do under `brief:` and run again")
    if not project.intended_use.strip():
        raise ProjectError(f"{path}: intended_use", "is not filled in", "write what the model is for under `intended_use:` and run again")
    return project


def is_open(text: str) -> bool:
    """Whether a person still has to write this: it is empty, or stands as the template wrote it."""
    return not text.strip() or text.strip().startswith(("TODO", "<"))


def settings_digest(*values: Any) -> str:
    """sha256 (hex, 16 characters) of what shapes a result; a stage's results are reused while it stays the same."""
    plain = [v.model_dump(mode="json") if isinstance(v, BaseModel) else v for v in values]
    return hashlib.sha256(canonical_json(plain)).hexdigest()[:16]


def planned_rows(project: Project) -> dict[Kind, int]:
    """How many examples of each kind the plan asks for."""
    return {"instruction": project.plan.instruction, "preference": project.plan.preference}
