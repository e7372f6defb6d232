"""Input and result types of a run of calls: what all its calls share, how long each is tried, and what the run reports."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from curation.config.models import ModelSpec
from curation.models.base import ChatModel
from curation.models.ledger import Ledger
from curation.requests import Answer, Failure


@dataclass(frozen=True)
class RetryPolicy:
    """Limits and waits for the tries of one call. Waits are jittered below a doubling bound; `retry-after` takes precedence."""

    tries: int = 8
    unreachable_tries: int = 4
    lost_tries: int = 3
    """For a try that was sent and got no response: it may have been billed, so there are fewer."""
    first_wait_s: float = 0.5
    longest_wait_s: float = 60.0
    first_poll_s: float = 0.5
    """First pause between polls of a batch; pauses grow to `longest_poll_s`."""
    longest_poll_s: float = 30.0


@dataclass
class AnswerCheck:
    """Stop condition for a model whose answers are unusable. Runs that share one object count together."""

    read: Callable[[Answer], Failure | None]
    """Returns why an answer is unusable, or None."""
    most_in_a_row: int
    """Consecutive failures that end the run."""
    in_a_row: list[tuple[str, str]] = field(default_factory=list)
    """(reason, text) of the failures since the last usable answer."""


@dataclass(frozen=True)
class AskProgress:
    """Progress of a run of calls."""

    done: int
    total: int | None
    in_flight: int
    answered: int
    reused: int
    failed: int
    cost_usd: float
    """Of this run."""
    seconds: float


@dataclass(frozen=True)
class AskSummary:
    """Result of a run of calls."""

    answered: int
    reused: int
    """Answered before, or by another process meanwhile."""
    failed: int
    uncertain: int
    """Tries, of this run and of processes that died before it, whose response was lost; charged at their upper bound."""
    cost_usd: float
    """Cost of this run in this process, its uncertain tries included."""
    failures: dict[str, int]
    """Count by reason."""
    refusals: dict[str, int]
    """Count of answers that are refusals, by the provider's category."""


@dataclass
class Tally:
    """Running counts of a run."""

    answered: int = 0
    reused: int = 0
    failed: int = 0
    uncertain: int = 0
    spent_nano: int = 0
    failures: Counter[str] = field(default_factory=Counter)
    refusals: Counter[str] = field(default_factory=Counter)

    @property
    def done(self) -> int:
        """Calls that have ended."""
        return self.answered + self.reused + self.failed

    def count_failure(self, reason: str) -> None:
        """Add one call that ended without an answer."""
        self.failed += 1
        self.failures[reason] += 1

    def progress(self, *, total: int | None, in_flight: int, seconds: float) -> AskProgress:
        """Return the counts as progress.

        Args:
            total: calls of the run, where known.
            in_flight: calls sent and not ended.
            seconds: since the run began.
        """
        counts = (self.done, total, in_flight, self.answered, self.reused, self.failed)
        return AskProgress(*counts, cost_usd=self.spent_nano / 1e9, seconds=seconds)

    def summary(self) -> AskSummary:
        """Return the counts of a run that has ended."""
        counts = (self.answered, self.reused, self.failed, self.uncertain)
        return AskSummary(*counts, cost_usd=self.spent_nano / 1e9, failures=dict(self.failures), refusals=dict(self.refusals))


@dataclass(frozen=True)
class CallContext:
    """Everything that all calls of a run share."""

    model: ChatModel
    spec: ModelSpec
    ledger: Ledger
    budget_usd: float
    """Cap on all calls of the project, earlier runs included; simulated and real costs count separately."""
    simulated: bool
    """The responses are made up: they and their costs are kept apart from real ones."""
    progress: Callable[[AskProgress], None] | None = None
    retries: RetryPolicy = RetryPolicy()
    check: AnswerCheck | None = None
    """Reads each answer, and ends the run after a number of consecutive failures."""
