"""Section `score`: the rubric and the rule that keeps."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, model_validator

from curation.project.closed import Closed

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
