"""Sections `models` and `budget`: who writes, who judges, who serves them, and what it may cost."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from curation.config.base import Closed

IntendedKind = Literal["task_model", "classifier", "extractor", "summarizer", "embedder", "assistant", "general_model"]
"""What the fine-tuned model will be; `assistant` and `general_model` may compete with the models that write the data."""


class Price(Closed):
    """US dollars per million tokens, for a model that the shipped price file does not know."""

    input: float = Field(ge=0, le=1e6)
    output: float = Field(ge=0, le=1e6)


class ModelSpec(Closed):
    """A model and who serves it."""

    provider: Literal["anthropic", "openai", "transformers", "offline-stand-in"] = "anthropic"
    """`openai` is any endpoint that speaks chat completions (OpenAI, vLLM, TGI, Ollama); `transformers` a model in a local folder.
    `offline-stand-in` answers on this machine with made-up text: for trying things out, never for real data."""
    model: str
    """The model's name at the provider; for `transformers` its folder."""
    base_url: str | None = None
    """Another address that speaks the same protocol (http://127.0.0.1:8000/v1 for vLLM); for the stand-in, where it was started."""
    key_env: str | None = Field(default=None, pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")
    """Name of the environment variable that holds the key; ANTHROPIC_API_KEY or OPENAI_API_KEY by default, which go to their own
    services alone: another `base_url` needs a variable of its own, and https unless it is on this machine."""
    max_tokens: int = Field(default=1024, ge=16)
    concurrency: int = Field(default=8, ge=1, le=256)
    batch: bool = False
    """Send by Message Batches: half the price, answers within 24 hours."""
    price: Price | None = None

    @model_validator(mode="after")
    def _batches_where_there_are_any(self) -> ModelSpec:
        if self.batch and self.provider in ("openai", "transformers"):
            raise ValueError(f"batch: true goes with provider anthropic; {self.provider} is asked one by one")
        return self


class Models(Closed):
    """Who writes and who judges."""

    teacher: ModelSpec
    judge: ModelSpec
    leak_judge: ModelSpec | None = None
    """Who says whether a row gives away a protected item; the judge where none is named."""
    panel: tuple[ModelSpec, ...] = ()
    """More judges, of other families, beside the judge."""
    writers: tuple[ModelSpec, ...] = ()
    """More teachers, for the candidates of preference pairs."""

    @property
    def leaks(self) -> ModelSpec:
        """Who judges leaks."""
        return self.leak_judge or self.judge

    def named(self) -> tuple[tuple[str, ModelSpec], ...]:
        """(key in project.yaml, spec) of every model that is named."""
        some = [("teacher", self.teacher), ("judge", self.judge)]
        some += [("leak_judge", self.leak_judge)] if self.leak_judge else []
        some += [(f"panel[{place}]", spec) for place, spec in enumerate(self.panel)]
        return tuple(some + [(f"writers[{place}]", spec) for place, spec in enumerate(self.writers)])


class Budget(Closed):
    """The hard cap on what all calls of this project may cost."""

    usd: float = Field(default=5.0, gt=0)
    failures_in_a_row: int = Field(default=10, ge=1)
    """A run stops after so many answers in a row that cannot be used; calls that are already sent, at most `concurrency`, are
    still paid."""
