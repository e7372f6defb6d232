"""Answers from a closed set of labels: macro-F1, the score of each label, and the confusion matrix.

The answers are read as labels if the references of the evaluation items repeat: at least two labels, twice as many items as labels, each
a short line. The labels are those of the references; any other answer counts as wrong and is shown as OTHER. Macro-F1 is the mean of the
labels' F1 scores, so that a rare label counts as much as a frequent one. Its interval is a percentile bootstrap over items, and a
difference has a paired permutation test that exchanges the answers of the two models item by item.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from training.intervals import BATCH, SEED, measure, verdict_of
from training.results import Classification, Confusion, DifferenceFacts, LabelScore, MetricFacts

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]

OTHER = "(no label)"
"""Shown in place of an answer that is none of the labels."""
LEAST_ITEMS_A_LABEL = 2
LONGEST_LABEL = 120
"""Characters of a label; longer references are texts."""
RESAMPLES = 2_000
"""Fewer than for means, because each resample counts every label."""


def classify(references: Sequence[str], answers: Sequence[str], *, of: str) -> tuple[Classification, MetricFacts] | None:
    """Return the classification of answers and their macro-F1; None if the references are no closed set of labels.

    Args:
        references: the part of each reference answer that is compared.
        answers: the same part of each generated answer.
        of: the metric that is the accuracy of this classification.
    """
    labels = sorted(set(references))
    is_closed = len(labels) > 1 and len(references) >= LEAST_ITEMS_A_LABEL * len(labels)
    if not is_closed or any(not label or len(label) > LONGEST_LABEL or "\n" in label for label in labels):
        return None
    place = {label: number for number, label in enumerate(labels)}
    given = [place[text] for text in references]
    found = [place.get(text, -1) for text in answers]
    counts = Counter(zip(given, found, strict=True))
    support, predicted = Counter(given), Counter(found)
    scores = []
    for number, label in enumerate(labels):
        hits = counts[number, number]
        precision, recall = hits / predicted[number] if predicted[number] else 0.0, hits / support[number]
        f1 = 2 * hits / (support[number] + predicted[number])
        scores.append(LabelScore(label=label, n=support[number], precision=round(precision, 4), recall=round(recall, 4), f1=round(f1, 4)))
    cells = sorted(counts.items(), key=lambda cell: (cell[0][0] == cell[0][1], -cell[1], cell[0]))
    classification = Classification(
        of=of,
        labels=tuple(scores),
        outside=predicted[-1],
        # The confused pairs first, the most frequent at the top; the diagonal after them.
        confusion=tuple(Confusion(reference=labels[a], answer=labels[b] if b >= 0 else OTHER, n=n) for (a, b), n in cells),
        references=tuple(given),
        answers=tuple(found),
    )
    return classification, measure_macro_f1(classification)


def confused_pairs(found: Classification) -> list[Confusion]:
    """Return the wrong cells of the confusion matrix, the most frequent first."""
    return [cell for cell in found.confusion if cell.reference != cell.answer]


def measure_macro_f1(found: Classification, *, resamples: int = RESAMPLES, seed: int = SEED) -> MetricFacts:
    """Return macro-F1 with its percentile-bootstrap interval over items.

    Args:
        found: the classification.
        resamples: number of resamples.
        seed: of the random numbers.
    """
    import numpy as np

    if len({given == answer for given, answer in zip(found.references, found.answers, strict=True)}) == 1:
        # All right or all wrong: resampling shows no spread, so the interval is that of the share of right answers.
        return measure([float(found.references[0] == found.answers[0])] * len(found.references))
    (parts,) = _parts(found)
    draws = np.concatenate([_macro_f1(weights, parts) for weights in _resampled(parts, resamples=resamples, seed=seed)])
    low, high = np.quantile(draws, (0.025, 0.975))
    value = float(_macro_f1(np.ones((1, len(found.references))), parts)[0])
    return MetricFacts(
        value=round(value, 4), n=len(found.references), low=round(float(low), 4), high=round(float(high), 4), method="bootstrap"
    )


def compare_macro_f1(
    found: Classification, other: Classification, *, resamples: int = RESAMPLES, seed: int = SEED
) -> DifferenceFacts | None:
    """Return the paired difference in macro-F1; None if the two were not measured on equal items.

    Args:
        found: the classification by one model.
        other: that by the model it is compared with.
        resamples: number of resamples, and of random exchanges.
        seed: of the random numbers.
    """
    import numpy as np

    if found.references != other.references:
        return None
    ours, theirs = _parts(found, other)
    ones = np.ones((1, len(found.references)))
    difference = float((_macro_f1(ones, ours) - _macro_f1(ones, theirs))[0])
    drawn = [_macro_f1(w, ours) - _macro_f1(w, theirs) for w in _resampled(ours, resamples=resamples, seed=seed)]
    low, high = (float(end) for end in np.quantile(np.concatenate(drawn), (0.025, 0.975)))
    # Under the null hypothesis the answers of an item may be exchanged between the models.
    exchanged, generator = [], np.random.default_rng(seed)
    for size in _batches(ours, resamples):
        swap = generator.integers(0, 2, (size, len(found.references))).astype(np.float64)
        first, second = (_exchange(swap, a, b) for a, b in ((ours, theirs), (theirs, ours)))
        exchanged.append(_f1_of(*first) - _f1_of(*second))
    extreme = int((np.abs(np.concatenate(exchanged)) >= abs(difference) - 1e-12).sum())
    p = (extreme + 1) / (resamples + 1) if found.answers != other.answers else 1.0
    return DifferenceFacts(
        difference=round(difference, 4), n=len(found.references), low=round(low, 4), high=round(high, 4), p=round(p, 4),
        verdict=verdict_of(p, low, high),
    )  # fmt: skip


def _parts(*found: Classification) -> list[tuple[Array, Array, Array]]:
    """Return three matrices (items by labels) for each classification: correct, given, and predicted."""
    import numpy as np

    labels = np.arange(len(found[0].labels))
    parts = []
    for one in found:
        given, predicted = (np.array(values)[:, None] == labels for values in (one.references, one.answers))
        parts.append(tuple(part.astype(np.float64) for part in (given & predicted, given, predicted)))
    return parts  # type: ignore[return-value]


def _batches(parts: tuple[Array, Array, Array], resamples: int) -> list[int]:
    size = max(1, BATCH // len(parts[0]))
    return [min(size, resamples - start) for start in range(0, resamples, size)]


def _resampled(parts: tuple[Array, Array, Array], *, resamples: int, seed: int) -> list[Array]:
    """Return, in batches, how often each item is drawn in each resample."""
    import numpy as np

    generator, n = np.random.default_rng(seed), len(parts[0])
    return [generator.multinomial(n, np.full(n, 1 / n), size=size).astype(np.float64) for size in _batches(parts, resamples)]


def _macro_f1(weights: Array, parts: tuple[Array, Array, Array]) -> Array:
    correct, given, predicted = (weights @ part for part in parts)
    return _f1_of(correct, given, predicted)


def _exchange(swap: Array, ours: tuple[Array, ...], theirs: tuple[Array, ...]) -> tuple[Array, Array, Array]:
    """Return the counts of a model whose answers are exchanged with the other's where `swap` is 1; the references stay."""
    correct, predicted = (part.sum(axis=0) + swap @ (other - part) for part, other in ((ours[0], theirs[0]), (ours[2], theirs[2])))
    return correct, ours[1].sum(axis=0)[None, :].repeat(len(swap), axis=0), predicted


def _f1_of(correct: Array, given: Array, predicted: Array) -> Array:
    """Return the mean F1 of the labels that a resample holds."""
    import numpy as np

    total, is_drawn = given + predicted, given > 0
    scores = np.divide(2 * correct, total, out=np.zeros_like(total), where=total > 0)
    mean: Array = (scores * is_drawn).sum(axis=1) / is_drawn.sum(axis=1)
    return mean
