"""Error rates of the people who review, each with an interval: from control rows, and from all answers together.

Control rows give a person's sensitivity (share of the bad rows that the person turns down) and specificity (share of the good rows that the
person approves) without any assumption. Dawid and Skene's model (1979) estimates the same from all answers, without known verdicts: an EM
algorithm over the unknown truth of each row, with weak Beta priors (MAP) and the control rows as known truths. For two possible answers
MACE (Hovy et al. 2013) is the same model in other words: a person guesses with probability g and otherwise answers right, so
sensitivity = (1 - g) + g r and specificity = (1 - g) + g (1 - r), hence g = 2 - sensitivity - specificity. So it is fitted once.

Both models assume that people err independently on a row. Pairs whose answers agree more often than that are found by a test, and answers
of one group on one row then count as one person's.

Intervals are Clopper-Pearson intervals at the effective number of answers (Korn and Graubard 1998): the number that gives the variance of
the infinitesimal jackknife over rows, to which the bootstrap tends (Efron 1982). Own implementation: crowd-kit 1.4.2 imports transformers
and nltk with its first class, and has neither priors nor intervals.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from curation.intervals import Estimate, clopper_pearson_lower, clopper_pearson_upper
from curation.quality.control import Control

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]

ALPHA = 0.05
# Pseudo-counts of the priors: (right, wrong) answers of a person, and (bad, good) rows. They keep estimates off 0 and 1 and fix which of
# the two truths is called bad: people are right more often than wrong.
PERSON_PRIOR = (1.0, 0.25)
ROW_PRIOR = (0.5, 0.5)
# Rows that two people share, below which the test of their independence has no power.
SHARED = 20
# Error probability of the test over all pairs.
PAIRS_ALPHA = 0.01
# A pause of this length ends a sitting; gaps across it say nothing about speed.
SITTING_S = 1_800.0
# Modified z-score from which a value is an outlier (Iglewicz and Hoaglin 1993).
OUTLIER = 3.5


class Answer(NamedTuple):
    """One person's answer on one row, as a judgment of the row as it is."""

    row: str
    user: str
    bad: bool
    """True for a rejection or an edit."""


class SameAnswers(NamedTuple):
    """Rows on which the same people gave the same answers. A million rows are few of them."""

    rows: int
    said: Sequence[tuple[str, bool]]
    """(user, bad) of each answer, as in `Answer`."""
    known: bool | None = None
    """Of control rows: whether they are bad."""


@dataclass(frozen=True, slots=True)
class ControlResult:
    """A person's answers on control rows."""

    user: str
    caught: int
    """Bad control rows that the person turned down."""
    bad: int
    """Bad control rows that the person answered."""
    passed: int
    """Good control rows that the person approved."""
    good: int
    """Good control rows that the person answered."""

    @property
    def sensitivity(self) -> Estimate | None:
        """Share of bad rows turned down, with its 95 % Clopper-Pearson interval; None without a bad control row."""
        return exact_share(self.caught, self.bad)

    @property
    def specificity(self) -> Estimate | None:
        """Share of good rows approved, with its 95 % Clopper-Pearson interval; None without a good control row."""
        return exact_share(self.passed, self.good)


@dataclass(frozen=True, slots=True)
class PersonEstimate:
    """A person's error rates, estimated from all answers."""

    user: str
    answers: int
    sensitivity: Estimate
    specificity: Estimate

    @property
    def guessing(self) -> float:
        """MACE's probability that the person guesses; 0 to 1."""
        return min(1.0, max(0.0, 2 - self.sensitivity.value - self.specificity.value))


@dataclass(frozen=True, slots=True)
class AnswerModel:
    """Dawid and Skene's model of all answers."""

    people: tuple[PersonEstimate, ...]
    bad_rate: Estimate
    """Share of bad rows among the answered ones."""
    error_rate: Estimate
    """Share of wrong answers among all answers."""
    probability_bad: tuple[tuple[float, int], ...]
    """Probability that a row is bad, given all answers on it, and the number of rows of which it is so."""
    groups: tuple[tuple[str, ...], ...]
    """People whose errors coincide; each group counts as one person on a row."""


@dataclass(frozen=True, slots=True)
class Pace:
    """Speed of one person."""

    user: str
    gaps: int
    """Times between two submits of one sitting."""
    median_s: float
    short: Estimate
    """Share of gaps that are far shorter than those of the others."""
    limit_s: float
    """Gaps below this number of seconds are short."""


def exact_share(hits: float, n: float) -> Estimate | None:
    """Return a share with its 95 % Clopper-Pearson interval; None if nothing was counted. Effective counts need not be whole."""
    if n <= 0:
        return None
    low, high = clopper_pearson_lower(hits, n, ALPHA / 2), clopper_pearson_upper(hits, n, ALPHA / 2)
    return Estimate(hits / n, low, high, round(n))


def grade_controls(answers: Iterable[Answer], controls: Iterable[Control]) -> list[ControlResult]:
    """Return each person's results on the control rows, by user name. A control row is bad if its verdict is a rejection.

    Args:
        answers: of everybody, on any rows.
        controls: rows with a known verdict of approve or reject.
    """
    known = {control.row: control.verdict == "reject" for control in controls}
    by_user: dict[str, list[Answer]] = {}
    for answer in answers:
        if answer.row in known:
            by_user.setdefault(answer.user, []).append(answer)
    out = []
    for user, own in sorted(by_user.items()):
        on_bad = [answer.bad for answer in own if known[answer.row]]
        on_good = [answer.bad for answer in own if not known[answer.row]]
        out.append(ControlResult(user, sum(on_bad), len(on_bad), len(on_good) - sum(on_good), len(on_good)))
    return out


def fit_answers(answers: Sequence[SameAnswers]) -> AnswerModel | None:
    """Fit Dawid and Skene's model to all answers, each row in one group; None where no row has two answers."""
    table = _tabulate(answers)
    if table is None:
        return None
    groups: list[set[int]] = []
    weights = _answer_weights(table, groups)
    fit = _fit(table, weights)
    # A dependent pair spoils the estimates of the others, so only the clearest pair is joined before the model is fitted again.
    while pair := _most_dependent(table, weights, fit, groups):
        joined = set(pair).union(*(group for group in groups if group & set(pair)))
        groups = sorted([group for group in groups if not group & joined] + [joined], key=min)
        weights = _answer_weights(table, groups)
        fit = _fit(table, weights)
    return _with_intervals(table, weights, fit, groups)


def paces(submits: Mapping[str, Sequence[float] | Array]) -> list[Pace]:
    """Return the speed of each person, and how often a submit follows the one before it too soon to have read the row.

    A gap is short if its modified z-score is below -3.5 on the logarithmic scale, compared with the gaps of the other people (of all gaps
    where only one person answered).

    Args:
        submits: times in seconds, by user name.
    """
    import numpy as np

    gaps = {user: _gaps(np.asarray(times, float)) for user, times in submits.items()}
    out = []
    for user, own in sorted(gaps.items()):
        if not len(own):
            continue
        others = np.concatenate([given for name, given in gaps.items() if name != user] or [own])
        limit = _outlier_limit(others if len(others) else own)
        short = exact_share(int((own < limit).sum()), len(own))
        assert short is not None
        out.append(Pace(user, len(own), float(np.median(own)), short, limit))
    return out


class _Table(NamedTuple):
    """Answers by group of equal rows. Whatever is summed over rows is summed over groups, each as often as it has rows."""

    rows: Array
    """The number of rows in each group."""
    users: list[str]
    bad: Array
    """1.0 where the person turned the rows down; groups by users."""
    given: Array
    """1.0 where the person answered the rows; groups by users."""
    known: Array
    """Truth of the rows of each group: 1 bad, 0 good, NaN unknown."""


class _Fit(NamedTuple):
    """Estimates of one fit."""

    sensitivity: Array
    specificity: Array
    bad_rate: float
    posterior: Array
    """Probability that each row is bad."""


def _tabulate(answers: Sequence[SameAnswers]) -> _Table | None:
    import numpy as np

    # Equal groups are one, in an order that does not depend on the given one.
    sizes = Counter[tuple[tuple[tuple[str, bool], ...], bool | None]]()
    for group in answers:
        sizes[tuple(sorted(group.said)), group.known] += group.rows
    groups, users = sorted(sizes, key=repr), sorted({user for said, _ in sizes for user, _ in said})
    at = {user: n for n, user in enumerate(users)}
    bad, given = np.zeros((len(groups), len(users))), np.zeros((len(groups), len(users)))
    for n, (said, _) in enumerate(groups):
        for user, is_bad in said:
            given[n, at[user]], bad[n, at[user]] = 1.0, is_bad
    known = np.array([math.nan if truth is None else float(truth) for _, truth in groups])
    rows = np.array([sizes[group] for group in groups], float)
    return _Table(rows, users, bad, given, known) if groups and given.sum(axis=1).max() >= 2 else None


def _answer_weights(table: _Table, groups: Sequence[set[int]]) -> Array:
    """Return the weight of each answer: 1, or 1/k where k people of one group answered the row."""
    weights = table.given.copy()
    for group in groups:
        columns = sorted(group)
        together = table.given[:, columns].sum(axis=1, keepdims=True)
        weights[:, columns] /= together.clip(min=1)
    return weights


def _fit(table: _Table, weights: Array) -> _Fit:
    """Run EM until no probability of a row moves by more than 1e-5.

    Args:
        table: rows by users.
        weights: of each answer in the truth of its row.
    """
    import numpy as np

    unknown = np.isnan(table.known)
    passed, rows = table.given - table.bad, table.rows
    posterior = np.where(unknown, (weights * table.bad).sum(axis=1) / weights.sum(axis=1), table.known)
    right, wrong = PERSON_PRIOR
    for _ in range(500):
        sensitivity = ((rows * posterior) @ table.bad + right) / ((rows * posterior) @ table.given + right + wrong)
        specificity = ((rows * (1 - posterior)) @ passed + right) / ((rows * (1 - posterior)) @ table.given + right + wrong)
        # The controls' share of bad rows is the project's choice, so it says nothing about the others.
        bad_rate = float(((rows * posterior)[unknown].sum() + ROW_PRIOR[0]) / (rows[unknown].sum() + sum(ROW_PRIOR)))
        before, posterior = posterior, _posterior(table, weights, sensitivity, specificity, bad_rate)
        if np.abs(posterior - before).max() < 1e-5:
            break
    return _Fit(sensitivity, specificity, bad_rate, posterior)


def _posterior(table: _Table, weights: Array, sensitivity: Array, specificity: Array, bad_rate: float) -> Array:
    """Return the probability that each row is bad, given the answers on it."""
    import numpy as np

    odds = (weights * table.bad) @ np.log(sensitivity / (1 - specificity))
    odds += (weights * (table.given - table.bad)) @ np.log((1 - sensitivity) / specificity)
    odds += math.log(bad_rate / (1 - bad_rate))
    posterior: Array = np.where(np.isnan(table.known), 1 / (1 + np.exp(-odds.clip(-500, 500))), table.known)
    return posterior


def _with_intervals(table: _Table, weights: Array, fit: _Fit, groups: Sequence[set[int]]) -> AnswerModel:
    import numpy as np

    covariance = _covariance(table, weights, fit)
    spread = np.diag(covariance)
    k, unknown = len(table.users), np.isnan(table.known)
    on_bad, on_good = (table.rows * fit.posterior) @ table.given, (table.rows * (1 - fit.posterior)) @ table.given
    people = tuple(
        PersonEstimate(
            user,
            int(table.rows @ table.given[:, at]),
            _effective(float(fit.sensitivity[at]), float(spread[at]), float(on_bad[at])),
            _effective(float(fit.specificity[at]), float(spread[k + at]), float(on_good[at])),
        )
        for at, user in enumerate(table.users)
    )
    return AnswerModel(
        people=people,
        bad_rate=_effective(fit.bad_rate, float(spread[-1]), float(table.rows[unknown].sum())),
        error_rate=_error_rate(table, fit, covariance),
        probability_bad=tuple(zip(fit.posterior.tolist(), map(int, table.rows), strict=True)),
        groups=tuple(tuple(table.users[at] for at in sorted(group)) for group in groups),
    )


def _error_rate(table: _Table, fit: _Fit, covariance: Array) -> Estimate:
    """Return the share of wrong answers among all answers, with the delta method's variance.

    Each person's share of the answers on bad rows is taken as the expected one, since the estimates are of people, not of rows.
    """
    import numpy as np

    given = table.rows @ table.given
    weights = given / given.sum()
    on_bad = fit.bad_rate * weights
    on_good = weights - on_bad
    value = float((on_bad * (1 - fit.sensitivity) + on_good * (1 - fit.specificity)).sum())
    slopes = np.concatenate([
        -on_bad * fit.sensitivity * (1 - fit.sensitivity),
        -on_good * fit.specificity * (1 - fit.specificity),
        [float((weights * (fit.specificity - fit.sensitivity)).sum()) * fit.bad_rate * (1 - fit.bad_rate)],
    ])  # fmt: skip
    return _effective(value, float(slopes @ covariance @ slopes) / (value * (1 - value)) ** 2, float(given.sum()))


def _covariance(table: _Table, weights: Array, fit: _Fit) -> Array:
    """Return the covariance of the estimates' log odds: the people's sensitivities, their specificities, and the share of bad rows.

    The infinitesimal jackknife over rows, H^-1 J H^-1: J sums the products of the rows' scores, H is the derivative of the summed score.
    """
    import numpy as np

    k, unknown = len(table.users), np.isnan(table.known)
    passed = table.given - table.bad

    def scores(odds: Array) -> Array:
        """Return the score of each group's rows (groups by parameters) at these log odds."""
        sensitivity, specificity, rate = np.split(1 / (1 + np.exp(-odds)), [k, 2 * k])
        p = _posterior(table, weights, sensitivity, specificity, float(rate[0]))[:, None]
        on_rate = np.where(unknown[:, None], p - rate, 0.0)
        return np.concatenate(
            [p * (table.bad - table.given * sensitivity), (1 - p) * (passed - table.given * specificity), on_rate], axis=1
        )

    values = np.concatenate([fit.sensitivity, fit.specificity, [fit.bad_rate]])
    odds, step = np.log(values / (1 - values)), 1e-4
    own, rows = scores(odds), table.rows
    slopes = [(rows @ scores(odds + move) - rows @ scores(odds - move)) / (2 * step) for move in step * np.eye(len(odds))]
    pseudo = np.array([*[sum(PERSON_PRIOR)] * (2 * k), sum(ROW_PRIOR)]) * values * (1 - values)
    inverse = np.linalg.pinv(np.diag(pseudo) - np.array(slopes).T)
    covariance: Array = inverse @ ((own * rows[:, None]).T @ own + np.diag(pseudo)) @ inverse.T
    return covariance


def _effective(value: float, variance: float, n: float) -> Estimate:
    """Return an estimate with the Clopper-Pearson interval at its effective number of answers, at most N.

    Args:
        value: the estimated share.
        variance: of its log odds.
        n: answers that it would rest on if each row's truth were known.
    """
    effective = max(1e-6, min(n, 1 / (value * (1 - value) * variance) if variance > 0 else n))
    found = exact_share(value * effective, effective)
    assert found is not None
    return found


def _most_dependent(table: _Table, weights: Array, fit: _Fit, groups: Sequence[set[int]]) -> tuple[int, int] | None:
    """Return the pair of people, by column, whose errors coincide most clearly and who are in no common group; None if none do.

    For each pair the covariance of their deviations from the expected answer is compared with its expectation under independence, by a
    one-sided normal test at the level PAIRS_ALPHA over all pairs. A row's truth is what the others' answers say.
    """
    import numpy as np
    from scipy.special import ndtri  # scipy.stats takes a second to import

    sensitivity, specificity, rate = fit.sensitivity, fit.specificity, fit.bad_rate
    logs = table.bad * np.log(sensitivity / (1 - specificity)) + (table.given - table.bad) * np.log((1 - sensitivity) / specificity)
    logs *= weights
    total = logs.sum(axis=1) + math.log(rate / (1 - rate))
    pairs = list(itertools.combinations(range(len(table.users)), 2))
    best, clearest = None, float(ndtri(1 - PAIRS_ALPHA / max(1, len(pairs))))
    for a, b in pairs:
        both = (table.given[:, a] * table.given[:, b]) > 0
        rows = table.rows[both]
        if rows.sum() < SHARED or any({a, b} <= group for group in groups):
            continue
        odds = total[both] - logs[both, a] - logs[both, b]
        others = np.where(np.isnan(table.known[both]), 1 / (1 + np.exp(-odds.clip(-500, 500))), table.known[both])
        product = np.prod([_residuals(table.bad[both, at], others, sensitivity[at], specificity[at]) for at in (a, b)], axis=0)
        # An uncertain truth lets even independent people deviate together.
        product -= others * (1 - others) * (sensitivity[[a, b]] + specificity[[a, b]] - 1).prod()
        mean, n = float(rows @ product / rows.sum()), float(rows.sum())
        spread = math.sqrt(float(rows @ (product - mean) ** 2) / (n - 1))
        # Of equal products rounding alone makes a spread.
        score = mean / (spread / math.sqrt(n)) if spread > 0 and np.ptp(product) > 0 else 0.0
        if score > clearest:
            best, clearest = (a, b), score
    return best


def _residuals(bad: Array, truth: Array, sensitivity: float, specificity: float) -> Array:
    """Return the answers minus their expectation, given the probability that each row is bad."""
    expected = truth * sensitivity + (1 - truth) * (1 - specificity)
    residuals: Array = bad - expected
    return residuals


def _gaps(times: Array) -> Array:
    import numpy as np

    gaps: Array = np.diff(np.sort(times))
    return gaps[gaps <= SITTING_S]


def _outlier_limit(gaps: Array) -> float:
    """Return the length of gap whose modified z-score is -3.5 on the logarithmic scale."""
    import numpy as np

    logs = np.log(gaps.clip(min=0.1))
    middle = float(np.median(logs))
    # 0.6745 makes the median deviation a standard deviation; a floor keeps equal gaps from making every other gap an outlier.
    deviation = max(float(np.median(np.abs(logs - middle))) / 0.6745, 0.2)
    return math.exp(middle - OUTLIER * deviation)
