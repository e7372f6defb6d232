"""Acceptance of rows that nobody read: the sample that `review.accept` draws, and its certificate (`curation.quality.certificate`)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from curation.config.gates import Accept
from curation.quality.certificate import (
    AcceptPolicy,
    Certificate,
    Evidence,
    Method,
    Stratum,
    allot,
    certify,
    choose_design,
    compute_bound,
    draw_rows,
    key_digest,
    need,
    stratify,
)
from curation.records import Kind
from curation.store import reviews
from curation.store.records import Row
from curation.workspace import label_of

if TYPE_CHECKING:
    from curation.views.state import ProjectState

SCORE_BANDS = (7.0, 8.0, 9.0)
"""Limits of the bands of scores (0 to 10) that the sample is stratified by."""
SMALLEST_STRATUM = 20
"""Rows below which a stratum is merged with others."""
SECONDS_PER_REVIEW = 30.0
"""Assumed time of one review, for the hours that are still needed."""


@dataclass(frozen=True)
class Acceptance:
    """A sample drawn for a certificate, and what people found in it."""

    policy: AcceptPolicy
    method: Method
    stratum_of: Mapping[int, str]
    """Stratum of every row that the certificate covers, by seq."""
    order: tuple[int, ...]
    """Seqs of the drawn rows in the order of reading."""
    seed: str
    """Digest of the key of the draw."""
    read: tuple[tuple[int, bool], ...] = ()
    """(seq, whether it was found bad) of the drawn rows that were answered, in the order of reading."""

    @property
    def evidence(self) -> Evidence:
        """Counts from which the bound is computed. Method betting counts the answered rows up to the first that is not answered."""
        sizes = Counter(self.stratum_of.values())
        read = Counter(self.stratum_of[seq] for seq, _ in self.read)
        bad = Counter(self.stratum_of[seq] for seq, is_bad in self.read if is_bad)
        strata = tuple(Stratum(name=name, rows=sizes[name], read=read[name], bad=bad[name]) for name in sorted(sizes))
        positions = tuple(at for at, (_, is_bad) in enumerate(self.read, 1) if is_bad) if self.method == "betting" else ()
        return Evidence(method=self.method, strata=strata, bad_at=positions, seed=self.seed)

    @property
    def is_met(self) -> bool:
        """True if the bound is within the policy."""
        bound = compute_bound(self.policy, self.evidence)
        return max(bound.released, bound.unread) <= self.policy.max_error

    @property
    def stated(self) -> str:
        """The policy and the result in words."""
        evidence, bound = self.evidence, compute_bound(self.policy, self.evidence)
        if not evidence.read:
            return f"no row was read yet; the policy allows {self.policy.max_error:.2%} bad rows (confidence {self.policy.confidence:.0%})"
        shown = f"at most {bound.released:.2%} of the released rows are bad (confidence {self.policy.confidence:.0%})"
        policy = f"the policy allows {self.policy.max_error:.2%}; reviewers are assumed to find every error"
        return f"{shown}, from {evidence.bad:,} bad of {evidence.read:,} rows read; {policy}"

    def settled(self, bad_by_seq: Mapping[int, bool]) -> Acceptance:
        """Return the acceptance with what people found.

        Args:
            bad_by_seq: of the answered rows, whether they were found bad.
        """
        read = []
        for seq in self.order:
            if seq in bad_by_seq:
                read.append((seq, bad_by_seq[seq]))
            elif self.method == "betting":
                break
        return replace(self, read=tuple(read))

    def needed(self, overlap: int) -> str:
        """Return how many more rows must be read, and the hours that this takes, in words.

        Args:
            overlap: people who answer a row.
        """
        if self.is_met:
            return "no more reviews are needed"
        found = need(self.policy, self.evidence)
        hours = found.hours(seconds=SECONDS_PER_REVIEW, overlap=overlap)
        if found.more is None or hours is None:
            return "no sample can meet the policy any more; review all rows or correct them"
        rows = "row" if found.more == 1 else "rows"
        later = f", {found.expected:,} at the rate found so far" if found.expected and found.expected > found.more else ""
        unread = len(self.order) - self.evidence.read
        if found.more > unread:
            fact = f"{found.more:,} more {rows} must be read and {unread:,} of the sample are unread"
            if self.evidence.read and self.method != "betting":  # a sample that grew after a look would void the bound
                return f"{fact}, so this sample cannot meet the policy; review all rows or correct them"
            return f"{fact}, so set review.sample to at least {self.evidence.read + found.more:,} before the next push"
        time = f"{hours:.1f} hours at {SECONDS_PER_REVIEW:g} s each"
        return f"{found.more:,} more {rows} must be read if no more of them are bad{later} ({time})"

    def certificate(self, kind: Kind, *, kept: int, reviewers: Sequence[str], simulated: bool) -> Certificate:
        """Return the certificate of a snapshot.

        Args:
            kind: of its rows.
            kept: rows of the snapshot that the sample was drawn from.
            reviewers: published names.
            simulated: whether a program gave any answer.
        """
        evidence = self.evidence.model_copy(update={"kept": kept})
        now = datetime.now(UTC).replace(microsecond=0)
        return certify(self.policy, evidence, kind=kind, reviewers=reviewers, simulated=simulated, issued=now)


def draw_acceptance(state: ProjectState, rows: Sequence[Row], accept: Accept, *, size: int) -> Acceptance:
    """Draw the rows that people read for a certificate.

    Args:
        state: of the project.
        rows: the rows that the certificate covers, read or not.
        accept: `review.accept`.
        size: rows to read in all, before each stratum's part is rounded up.
    """
    policy = AcceptPolicy(max_error=accept.max_error, confidence=accept.confidence)
    totals, labels = state.totals, [label_of(state.workspace, row) for row in rows]
    names = stratify([totals.get(row.seq) for row in rows], labels, bands=SCORE_BANDS, smallest=SMALLEST_STRATUM)
    design = choose_design(policy, Counter(names), controls=None, sequential=accept.looks == "any")
    if design.pooled:
        names = ["all rows"] * len(rows)
    key = reviews.sample_key(state.db)
    places = draw_rows([row.id for row in rows], names, allot(Counter(names), size), key=key)
    strata = {row.seq: name for row, name in zip(rows, names, strict=True)}
    return Acceptance(policy, design.method, strata, tuple(rows[place].seq for place in places), key_digest(key))
