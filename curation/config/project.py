"""project.yaml as frozen values.

The schema is closed: an unknown key is an error that suggests the nearest known one, never a silent default. The file holds no secrets.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, Field, ValidationError, model_validator

from curation.config.base import Closed
from curation.config.gates import DEFAULT_RUBRIC, Balance, Dedup, Describe, Review, Score, Screen, Signing, Splits, Suite
from curation.config.models import Budget, IntendedKind, Models, ModelSpec, Price
from curation.config.plan import Documents, Grounding, Plan, Quota, RecordRules, ValuesFile
from curation.config.yaml import describe_error, read_yaml
from curation.errors import ProjectError, command
from curation.records import Kind, canonical_json

VERSION = 1

__all__ = [
    "DEFAULT_RUBRIC",
    "VERSION",
    "Balance",
    "Budget",
    "Closed",
    "Dedup",
    "Describe",
    "Documents",
    "Grounding",
    "IntendedKind",
    "ModelSpec",
    "Models",
    "Plan",
    "Price",
    "Project",
    "Quota",
    "RecordRules",
    "Review",
    "Score",
    "Screen",
    "Signing",
    "Splits",
    "Suite",
    "ValuesFile",
    "is_open",
    "load_project",
    "planned_rows",
    "settings_digest",
]


class Project(Closed):
    """Configuration of a curation project."""

    version: Literal[1]
    """Version of this file's schema."""
    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,40}$")
    """Name of the project, used in Argilla and in snapshot names."""
    brief: str
    """Task of the model, for whom, in two to five sentences; the teacher and the judge read it."""
    intended_use: str
    """Purpose of the fine-tuned model; recorded in every snapshot."""
    intended_kind: IntendedKind = "task_model"
    """Purpose as one word, compared with the known terms of the named providers before a paid call."""
    licence: str = "other"
    """License of the data set, an SPDX identifier."""
    models: Models
    """Teacher, judges and other models."""
    budget: Budget = Budget()
    """Hard cap on the cost of all model calls."""
    plan: Plan
    """Examples to write: attributes, quotas, prompts."""
    records: RecordRules = RecordRules()
    """Rules for every record: system message, label, output format."""
    score: Score = Score()
    """Judge scores and the threshold; null turns the judge off."""
    dedup: Dedup = Dedup()
    """Search for exact, near and semantic duplicates."""
    screen: Screen = Screen()
    """Leak detection against protected sets, and checks of the text."""
    describe: Describe = Describe()
    """Statistics, topics and PII search."""
    balance: Balance = Balance()
    """Caps and targets by class."""
    review: Review
    """Review in Argilla; also `none`, `sample` or `all`."""
    splits: Splits = Splits()
    """Shares of the splits, and the similarity that keeps rows in one split."""
    signing: Signing = Signing()
    """Public keys whose snapshots are trusted."""

    @model_validator(mode="before")
    @classmethod
    def _workspace_by_name(cls, given: Any) -> Any:
        if not isinstance(given, dict) or not isinstance(given.get("review"), dict | str):
            return given
        review = {"mode": given["review"]} if isinstance(given["review"], str) else given["review"]
        return given | {"review": {"workspace": given.get("name", ""), **review}}

    @model_validator(mode="after")
    def _judges_what_it_must(self) -> Project:
        if self.score.is_off and self.plan.candidates and self.plan.preferred_by == "judge":
            raise ValueError("plan.candidates needs a judge to prefer one, and score is null; set plan.preferred_by: people")
        return self

    @model_validator(mode="after")
    def _ranks_within_a_planned_attribute(self) -> Project:
        topic = {"topic"} if self.plan.grounding and self.plan.grounding.topic else set()
        known = sorted({*self.plan.attributes, *topic})
        if self.score.top_by is not None and self.score.top_by not in known:
            raise ValueError(f"score.top_by names {self.score.top_by!r}; the plan has {', '.join(known) or 'no attribute'}")
        return self


def load_project(folder: Path) -> Project:
    """Read FOLDER/project.yaml.

    Raises:
        ProjectError: missing file, broken YAML, or a key that does not fit, with its path and a suggestion.
    """
    path = folder / "project.yaml"
    if not path.is_file():
        raise ProjectError(str(path), "there is no such file", command("curate", "init", folder, "--template", "blank"))
    value = read_yaml(path)
    if not isinstance(value, dict):
        raise ProjectError(str(path), "holds no keys", command("curate", "init", f"{folder}-new", "--template", "blank"))
    try:
        project = Project.model_validate(value)
    except ValidationError as error:
        raise ProjectError(*describe_error(error, Project, path)) from error
    try:
        settings_digest(project)
    except (TypeError, ValueError) as error:  # orjson writes integers of up to 64 bits; pydantic turns 1e30 into a larger one
        raise ProjectError(str(path), f"holds a value that cannot be recorded ({error})", "use smaller numbers and plain texts") from error
    if is_open(project.brief):
        raise ProjectError(f"{path}: brief", "is not filled in", "write what the model should do under `brief:` and run again")
    if not project.intended_use.strip():
        raise ProjectError(f"{path}: intended_use", "is not filled in", "write what the model is for under `intended_use:` and run again")
    return project


def is_open(text: str) -> bool:
    """Return whether a text still has to be written: it is empty or the template's placeholder."""
    return not text.strip() or text.strip().startswith(("TODO", "<"))


def settings_digest(*values: Any) -> str:
    """Return a digest (16 hex characters of sha256) of the settings that shape a result; equal digests allow reuse."""
    plain = [v.model_dump(mode="json") if isinstance(v, BaseModel) else v for v in values]
    return hashlib.sha256(canonical_json(plain)).hexdigest()[:16]


def planned_rows(project: Project) -> dict[Kind, int]:
    """Return the number of examples of each kind in the plan."""
    return {"instruction": project.plan.instruction, "preference": project.plan.preference}
