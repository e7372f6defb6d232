"""Acceptance certificate: an upper bound on the error rate of rows that nobody read, from a random sample that people read.

The rows are stratified by score and class, and a part of each stratum is drawn by a seeded hash of the row's id. The bound follows from
the counts alone (`bounds.py`), so whoever holds the certificate can compute it again: `verify_certificate`. Reviewers miss errors; where
control rows measure how many, the lower bound of that share enters the bound, at a fifth of the error probability.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, model_validator

from curation.errors import SnapshotError
from curation.intervals import clopper_pearson_lower
from curation.quality import bounds

CERTIFICATE = "certificate.json"
Method = Literal["complete", "hypergeometric", "stratified", "per_stratum", "betting"]
METHODS: dict[str, str] = {
    "complete": "every row was read",
    "hypergeometric": "exact bound of a simple random sample without replacement",
    "stratified": "bound of a stratified sample without replacement (Hoeffding 1956)",
    "per_stratum": "Clopper-Pearson bound of each stratum in its form for finite sets, added up (Bonferroni)",
    "betting": "anytime-valid betting bound (Waudby-Smith and Ramdas 2024)",
}
"""Method to its description."""
# Part of the error probability that is spent on the readers' sensitivity; the rest is spent on the sample.
CONTROL_PART = 0.2
# Times the rows of a simple random sample that a stratified one may cost.
LONGER = 1.15


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class AcceptPolicy(_Frozen):
    """Highest accepted error rate, and the confidence with which it must be shown."""

    max_error: float = Field(gt=0, lt=1)
    confidence: float = Field(default=0.95, ge=1 - bounds.MAX_ALPHA, lt=1)


class Stratum(_Frozen):
    """Counts of one stratum."""

    name: str
    rows: int = Field(ge=0)
    read: int = Field(ge=0)
    bad: int = Field(ge=0)
    """Of the rows read, those that people rejected, edited or left disputed."""

    @model_validator(mode="after")
    def _counts_fit(self) -> Stratum:
        if not self.bad <= self.read <= self.rows:
            raise ValueError(f"stratum {self.name!r}: bad ({self.bad}) <= read ({self.read}) <= rows ({self.rows}) must hold")
        return self


class Controls(_Frozen):
    """Control rows known to be bad, and how many of them the review turned down."""

    caught: int = Field(ge=0)
    bad: int = Field(ge=1)

    @model_validator(mode="after")
    def _counts_fit(self) -> Controls:
        if self.caught > self.bad:
            raise ValueError(f"caught ({self.caught}) must be at most bad ({self.bad})")
        return self


class Evidence(_Frozen):
    """Everything that the bound is computed from."""

    method: Method
    strata: tuple[Stratum, ...] = Field(min_length=1)
    controls: Controls | None = None
    """None: the bound assumes that reviewers find every bad row."""
    bad_at: tuple[int, ...] = ()
    """Method betting: positions (from 1) of the bad rows in the order of reading."""
    kept: int | None = Field(default=None, ge=0)
    """Rows that were released, where later gates took out more than the rows found bad."""
    seed: str = ""
    """Digest of the key by which rows were drawn; the key itself stays in the project."""

    @model_validator(mode="after")
    def _fits_its_method(self) -> Evidence:
        if self.kept is not None and self.kept > self.rows - self.bad:
            raise ValueError(f"kept ({self.kept}) must be at most the {self.rows - self.bad} rows that were not found bad")
        if self.method == "complete" and self.read < self.rows:
            raise ValueError(f"method complete: {self.rows - self.read} rows were not read")
        if self.method == "hypergeometric" and (len(self.strata) > 1 or self.controls is not None):
            raise ValueError("method hypergeometric takes one stratum and no control rows")
        positions = list(self.bad_at)
        if self.method == "betting" and (
            len(positions) != self.bad or positions != sorted(set(positions)) or any(not 1 <= at <= self.read for at in positions)
        ):
            raise ValueError(f"method betting: bad_at must name the positions of the {self.bad} bad rows in order")
        return self

    @property
    def rows(self) -> int:
        """Rows of all strata."""
        return sum(stratum.rows for stratum in self.strata)

    @property
    def read(self) -> int:
        """Rows read in all strata."""
        return sum(stratum.read for stratum in self.strata)

    @property
    def bad(self) -> int:
        """Bad rows found in all strata."""
        return sum(stratum.bad for stratum in self.strata)


class Bound(_Frozen):
    """Upper bounds that follow from the evidence, each valid at the policy's confidence."""

    bad_left: int = Field(ge=0)
    """Bad rows that were not found."""
    unread: float = Field(ge=0, le=1)
    """Error rate of the rows that nobody read; 0 if every row was read."""
    released: float = Field(ge=0, le=1)
    """Error rate of all rows that are left after the found bad rows are taken out."""
    sensitivity: float = Field(ge=0, le=1)
    """Lower bound of the share of bad rows that the review finds; 1 if it was assumed."""


class Certificate(_Frozen):
    """A bound with everything that it follows from."""

    scheme: Literal["seedcorn-certificate-v1"] = "seedcorn-certificate-v1"
    kind: Literal["instruction", "preference"]
    policy: AcceptPolicy
    evidence: Evidence
    bound: Bound
    reviewers: tuple[str, ...] = ()
    """Published names of the people who read the sample."""
    simulated: bool = False
    """True if a program gave any of the answers."""
    issued: AwareDatetime

    @property
    def accepts(self) -> bool:
        """True if both error rates are within the policy."""
        return self.bound.released <= self.policy.max_error and self.bound.unread <= self.policy.max_error

    @property
    def sentence(self) -> str:
        """The result in words."""
        return state_result(self.policy, self.evidence, self.bound)


def state_result(policy: AcceptPolicy, evidence: Evidence, bound: Bound) -> str:
    """Return in words what a bound says of the released rows, and what it rests on.

    Args:
        policy: highest error rate and confidence.
        evidence: design and counts.
        bound: of the evidence.
    """
    allowed = f"the policy allows {policy.max_error:.2%}"
    if not evidence.read:
        return f"no row was read yet; {allowed} bad rows (confidence {policy.confidence:.0%})"
    found = f"{evidence.bad:,} of {evidence.read:,} rows read were bad"
    if evidence.read < evidence.rows:
        found += f", of {evidence.rows:,} in all"
    if evidence.controls is None:
        share = "reviewers are assumed to find every error, because no control rows measure it"
    else:
        caught, bad = evidence.controls.caught, evidence.controls.bad
        share = f"the review finds at least {bound.sensitivity:.0%} of the errors ({caught:,} of {bad:,} bad control rows)"
    result = f"at most {bound.released:.2%} of the released rows are bad (confidence {policy.confidence:.0%})"
    if evidence.method == "complete" and evidence.controls is None:
        result = "every row was read, and those found bad are left out"  # a bound of 0 would be a promise that nobody measured
    return f"{result}: {found}; {share}; {allowed}"


@dataclass(frozen=True, slots=True)
class ReviewNeed:
    """Reviews that a certificate still needs."""

    more: int | None
    """Rows still to be read if no more of them are bad; None if the policy cannot be met any more by a sample."""
    expected: int | None
    """Rows still to be read if as many of them are bad as so far."""

    def hours(self, *, seconds: float, overlap: int) -> float | None:
        """Return the working hours for `more`, from the seconds that one review takes and the reviews of each row."""
        return None if self.more is None else self.more * overlap * seconds / 3600


@dataclass(frozen=True, slots=True)
class Design:
    """Plan of a sample."""

    method: Method
    pooled: bool
    """True if the rows are drawn from the whole set as one stratum."""
    rows: int | None
    """Rows to read if none of them is bad; None if only reading all rows helps."""


def compute_bound(policy: AcceptPolicy, evidence: Evidence) -> Bound:
    """Return the upper bounds that follow from the evidence at the policy's confidence."""
    alpha = 1 - policy.confidence
    sensitivity = 1.0
    if evidence.controls is not None:
        sensitivity = clopper_pearson_lower(evidence.controls.caught, evidence.controls.bad, CONTROL_PART * alpha)
        alpha *= 1 - CONTROL_PART
    # Of the bad rows, those that were found are taken out. The number left is bounded also where some of the found ones were good:
    # each method's bound grows by at least one with every row found.
    left = min(_most_bad(evidence, sensitivity, alpha) - evidence.bad, evidence.rows - evidence.bad)
    unread = evidence.rows - evidence.read
    kept = evidence.rows - evidence.bad if evidence.kept is None else evidence.kept
    return Bound(
        bad_left=left,
        unread=min(1.0, left / unread) if unread else 0.0,
        released=min(1.0, left / kept) if kept else 0.0,
        sensitivity=sensitivity,
    )


def choose_design(policy: AcceptPolicy, sizes: Mapping[str, int], *, controls: Controls | None, sequential: bool) -> Design:
    """Return the sharpest valid design: a choice before anything is read, so it depends on no verdict.

    A stratified sample is preferred. In small sets its bound is weaker than the exact one of a simple random sample; where it would cost
    more than LONGER times the rows, the strata are pooled.

    Args:
        policy: highest error rate and confidence.
        sizes: rows of each stratum.
        controls: results of the control rows.
        sequential: whether the result is looked at again and again until it is good enough.
    """
    pooled = {"all rows": sum(sizes.values())}
    exact: Method = "stratified" if controls else "hypergeometric"
    if sequential:
        return Design("betting", pooled=True, rows=rows_to_read(policy, pooled, method="betting", controls=controls))
    simple = rows_to_read(policy, pooled, method=exact, controls=controls)
    spread = rows_to_read(policy, sizes, method="stratified", controls=controls)
    if len(sizes) > 1 and simple is not None and spread is not None and spread <= LONGER * simple:
        return Design("stratified", pooled=False, rows=spread)
    return Design(exact, pooled=True, rows=simple)


def certify(
    policy: AcceptPolicy,
    evidence: Evidence,
    *,
    kind: Literal["instruction", "preference"],
    reviewers: Sequence[str],
    simulated: bool,
    issued: AwareDatetime,
) -> Certificate:
    """Return the certificate of what was read, whether or not the policy accepts it.

    Args:
        policy: highest error rate and confidence.
        evidence: design and counts.
        kind: of the rows.
        reviewers: published names.
        simulated: whether a program gave any answer.
        issued: time of issue, with its zone.
    """
    return Certificate(
        kind=kind, policy=policy, evidence=evidence, bound=compute_bound(policy, evidence), reviewers=tuple(sorted(reviewers)),
        simulated=simulated, issued=issued,
    )  # fmt: skip


def verify_certificate(certificate: Certificate, *, file: str = CERTIFICATE) -> Bound:
    """Compute a certificate's bound from its counts and return it.

    Args:
        certificate: as read.
        file: name for the error message.

    Raises:
        SnapshotError: the certificate states another bound than its counts give.
    """
    computed = compute_bound(certificate.policy, certificate.evidence)
    for name in Bound.model_fields:
        stated, found = getattr(certificate.bound, name), getattr(computed, name)
        # Other builds of scipy may differ in the last digits of the incomplete beta function.
        if not math.isclose(stated, found, rel_tol=1e-6, abs_tol=1e-9):
            fact = f"states {name} = {stated:.6g}, but its counts give {found:.6g}"
            raise SnapshotError(file, fact, "do not use the data set; ask its author for a new certificate")
    return computed


def allot(sizes: Mapping[str, int], n: int) -> dict[str, int]:
    """Return the rows to read in each stratum: the same part of each, rounded up, so that no stratum is sampled more thinly.

    Args:
        sizes: rows of each stratum.
        n: rows to read in all, before rounding; all rows if there are fewer.
    """
    total = sum(sizes.values())
    wanted = min(n, total)
    return {name: -(-wanted * size // total) if total else 0 for name, size in sizes.items()}


def stratify(scores: Sequence[float | None], classes: Sequence[str | None], *, bands: Sequence[float], smallest: int) -> list[str]:
    """Return the name of each row's stratum: its class and the band of its score.

    Strata with fewer rows than SMALLEST are merged over the classes, then into one stratum, so that rounding up costs little.

    Args:
        scores: 0 to 10, by row; None for a row without a score.
        classes: by row; None for a row without a class.
        bands: limits between bands of scores, ascending.
        smallest: fewest rows of a stratum.
    """

    def band(score: float | None) -> str:
        if score is None:
            return "no score"
        place = sum(score >= limit for limit in bands)
        low = f"{bands[place - 1]:g}" if place else "0"
        return f"score {low} to {bands[place]:g}" if place < len(bands) else f"score {low} and above"

    names = [f"{name}, {band(score)}" if name else band(score) for name, score in zip(classes, scores, strict=True)]
    names = _merge_small(names, [band(score) for score in scores], smallest)
    return _merge_small(names, ["other rows"] * len(names), smallest)


def draw_rows(ids: Sequence[str], strata: Sequence[str], shares: Mapping[str, int], *, key: bytes) -> list[int]:
    """Return the indices of the drawn rows, in the order in which they should be read.

    A row's number is a keyed hash of its id; in each stratum the rows with the lowest numbers are drawn. The order mixes the strata.

    Args:
        ids: id of each row.
        strata: name of each row's stratum.
        shares: rows to draw from each stratum.
        key: makes the draw unpredictable for whoever writes the rows, and repeatable for whoever holds it.
    """
    numbers = [hashlib.blake2b(row.encode(), key=key, digest_size=16).digest() for row in ids]
    left, drawn = dict(shares), []
    for place in sorted(range(len(ids)), key=numbers.__getitem__):
        if left.get(strata[place], 0) > 0:
            left[strata[place]] -= 1
            drawn.append(place)
    return drawn


def key_digest(key: bytes) -> str:
    """Return the digest that a certificate states of the key: whoever receives the key later can check the draw."""
    return hashlib.sha256(key).hexdigest()[:16]


def rows_to_read(
    policy: AcceptPolicy, sizes: Mapping[str, int], *, method: Method, bad: int = 0, controls: Controls | None = None
) -> int | None:
    """Return the fewest rows to read in all so that the policy accepts, if BAD of them are bad; None if only reading all rows helps.

    Args:
        policy: highest error rate and confidence.
        sizes: rows of each stratum.
        method: of the bound.
        bad: bad rows that will be found, spread evenly over the reading.
        controls: results of the control rows.
    """
    total = sum(sizes.values())

    def is_enough(n: int) -> bool:
        shares = allot(sizes, n)
        read = sum(shares.values())
        if bad > read:
            return False
        counts = _spread(bad, shares)
        positions = tuple(-(-read * place // (bad + 1)) for place in range(1, bad + 1)) if method == "betting" else ()
        if len(set(positions)) < len(positions):
            return False
        strata = tuple(Stratum(name=name, rows=sizes[name], read=shares[name], bad=counts[name]) for name in sizes)
        bound = compute_bound(policy, Evidence(method=method, strata=strata, controls=controls, bad_at=positions))
        return max(bound.released, bound.unread) <= policy.max_error

    # The accepted number of bad rows left falls by one after every 1/max_error rows read. Between these steps more reading never hurts, so
    # the first step whose last row is enough holds the answer.
    most = math.floor(policy.max_error * total)
    ends = [total - max(1, math.ceil(left / policy.max_error)) for left in range(most, -1, -1)]
    low = 0
    for high in ends:
        if high > low and is_enough(high):
            while high - low > 1:
                middle = (low + high) // 2
                low, high = (low, middle) if is_enough(middle) else (middle, high)
            return sum(allot(sizes, high).values())
        low = max(low, high)
    return None


def need(policy: AcceptPolicy, evidence: Evidence) -> ReviewNeed:
    """Return how many more rows must be read before the policy accepts: if no more are bad, and at the rate found so far."""
    sizes = {stratum.name: stratum.rows for stratum in evidence.strata}
    method: Method = "stratified" if evidence.method == "complete" else evidence.method
    bound = compute_bound(policy, evidence)
    if max(bound.released, bound.unread) <= policy.max_error:
        return ReviewNeed(0, 0)

    def more(bad: int) -> int | None:
        total = rows_to_read(policy, sizes, method=method, bad=bad, controls=evidence.controls)
        return None if total is None else max(1, total - evidence.read)

    first = more(evidence.bad)
    expected, bad = first, evidence.bad
    for _ in range(20):  # more reading finds more bad rows, which need more reading
        if expected is None or not evidence.read:
            break
        found = evidence.bad + math.ceil(expected * evidence.bad / evidence.read)
        if found == bad:
            break
        bad = found
        expected = more(bad)
    return ReviewNeed(first, expected)


def controls_to_read(policy: AcceptPolicy, evidence: Evidence, *, most: int = 2_000) -> int | None:
    """Return how many more bad control rows must be read, if all are turned down, before the policy accepts; None beyond MOST.

    Args:
        policy: highest error rate and confidence.
        evidence: design and counts.
        most: control rows that one may ask for.
    """
    controls = evidence.controls
    if controls is None:
        return 0

    def is_enough(more: int) -> bool:
        grown = Controls(caught=controls.caught + more, bad=controls.bad + more)
        bound = compute_bound(policy, evidence.model_copy(update={"controls": grown}))
        return max(bound.released, bound.unread) <= policy.max_error

    low, high = -1, most
    if not is_enough(high):
        return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if is_enough(middle) else (middle, high)
    return high


def _most_bad(evidence: Evidence, sensitivity: float, alpha: float) -> int:
    rows, read, bad = evidence.rows, evidence.read, evidence.bad
    if evidence.method == "hypergeometric":
        return bounds.most_bad_hypergeometric(bad, read, rows, alpha)
    if evidence.method in ("stratified", "complete"):
        fraction = min((stratum.read / stratum.rows for stratum in evidence.strata if stratum.rows), default=1.0)
        return bounds.most_bad_stratified(bad, rows, fraction * sensitivity, alpha)
    if evidence.method == "per_stratum":
        part = alpha / len(evidence.strata)
        return sum(_per_stratum(stratum, sensitivity, part) for stratum in evidence.strata)
    if evidence.controls is None:
        return bounds.most_bad_betting(evidence.bad_at, read, rows, alpha)
    # The rows that would be found bad if all were read are bounded first; the bad rows follow from them and the sensitivity.
    findable = bounds.most_bad_betting(evidence.bad_at, read, rows, alpha * 3 / 4)
    return max(findable, bounds.most_bad_stratified(findable, rows, sensitivity, alpha / 4))


def _per_stratum(stratum: Stratum, sensitivity: float, alpha: float) -> int:
    if sensitivity == 1:
        return bounds.most_bad_hypergeometric(stratum.bad, stratum.read, stratum.rows, alpha)
    fraction = stratum.read / stratum.rows if stratum.rows else 1.0
    return bounds.most_bad_stratified(stratum.bad, stratum.rows, fraction * sensitivity, alpha)


def _spread(bad: int, shares: Mapping[str, int]) -> dict[str, int]:
    """Return BAD spread over the strata, no stratum above its share."""
    left, out = bad, {}
    for name, share in shares.items():
        out[name] = min(left, share)
        left -= out[name]
    return out


def _merge_small(names: Sequence[str], wider: Sequence[str], smallest: int) -> list[str]:
    counts: dict[str, int] = {}
    for name in names:
        counts[name] = counts.get(name, 0) + 1
    return [name if counts[name] >= smallest else other for name, other in zip(names, wider, strict=True)]


assert set(METHODS) == set(get_args(Method))
