"""The rows beside a sample of real use: do they differ, how much, what of it do they not cover, and what is that about."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from curation.distribution.coverage import BASELINE, Coverage, find_uncovered, flatten
from curation.distribution.facts import Comparison, Point, Topic, Uncovered
from curation.distribution.personal import mask_personal
from curation.distribution.terms import telling_terms
from curation.distribution.topics import checked_vectors, find_topics
from curation.distribution.twosample import LEAST, mmd_test, separability
from curation.errors import ProjectError

Array = np.ndarray[Any, np.dtype[Any]]

MOST_REAL = 10_000
"""Real rows that coverage looks at; of more a seeded sample."""
_READ_FOR_TERMS = 2_000
_POINTS = 500
"""Rows of each side in the picture."""
_SHOWN = 400


def compare(
    training: tuple[Sequence[str], Array],
    real: tuple[Sequence[str], Array],
    *,
    ids: Sequence[str] | None = None,
    file: str = "",
    column: str = "",
    scope: str = "",
    region: str | None = "US",
    baseline: float = BASELINE,
    shown: int = 50,
    permutations: int = 500,
    seed: int = 0,
) -> Comparison:
    """Hold the training prompts against real ones, each given as texts and their vectors.

    Equal texts count once a side. The test is made on up to 1,500 rows a side and coverage on up to 10,000 real rows, both
    seeded samples; beyond that time grows with the training rows only (one product of real × training vectors).

    Args:
        ids: what names the training rows; their numbers unless given.
        shown: uncovered rows that are written out, the farthest first.

    Raises:
        ProjectError: a side has fewer than five different texts, or a vector is not finite.
    """
    texts, vectors, names = _distinct(*training, ids)
    real_texts, real_vectors, _ = _distinct(*real, None)
    for side, found in (("the project", texts), ("the real sample", real_texts)):
        if len(found) < LEAST:
            raise ProjectError(side, f"has {len(found)} different texts; a comparison needs {LEAST}", "give more rows")
    generator = np.random.default_rng(seed)
    if len(real_texts) > MOST_REAL:
        taken = np.sort(generator.choice(len(real_texts), MOST_REAL, replace=False))
        real_texts, real_vectors = [real_texts[i] for i in taken], real_vectors[taken]
    test = mmd_test(vectors, real_vectors, permutations=permutations, seed=seed)
    coverage = find_uncovered(real_vectors, vectors, baseline=baseline)
    some, real_some = ([_masked(side[i], region) for i in _some(len(side), _READ_FOR_TERMS, generator)] for side in (texts, real_texts))
    more_training, more_real = telling_terms(some, real_some)
    uncovered = _uncovered(coverage, real_texts, texts, names, region=region, shown=shown)
    return Comparison(
        file=file, column=column, scope=scope, training_rows=len(texts), real_rows=len(real_texts), tested=test.sizes, mmd2=test.mmd2,
        p_value=test.p_value, permutations=permutations, auc=separability(vectors, real_vectors, seed=seed),
        covered=coverage.covered, baseline=coverage.baseline, radius=coverage.radius, uncovered=uncovered,
        gaps=_gaps(coverage, real_texts, real_vectors, region=region, seed=seed), more_real=tuple(more_real),
        more_training=tuple(more_training), **_picture(vectors, real_vectors, coverage, generator),
    )  # fmt: skip


def _distinct(texts: Sequence[str], vectors: Array, ids: Sequence[str] | None) -> tuple[list[str], Array, list[str]]:
    """Each text once; an empty one says nothing of use and is left out."""
    unit = checked_vectors(vectors, len(texts))
    first: dict[str, int] = {}
    for row, text in enumerate(texts):
        if text.strip():
            first.setdefault(text, row)
    rows = list(first.values())
    names = [ids[row] if ids is not None else str(row) for row in rows]
    return list(first), unit[rows] if rows else unit[:0], names


def _some(size: int, most: int, generator: np.random.Generator) -> list[int]:
    if size <= most:
        return list(range(size))
    return [int(i) for i in np.sort(generator.choice(size, most, replace=False))]


def _uncovered(
    coverage: Coverage, real: Sequence[str], training: Sequence[str], names: Sequence[str], *, region: str | None, shown: int
) -> tuple[Uncovered, ...]:
    lines = [line for line in coverage.table.to_pylist() if not line["covered"]]
    lines.sort(key=lambda line: (-line["distance"], line["real"]))
    return tuple(
        Uncovered(
            text=_masked(real[line["real"]], region),
            nearest=_masked(training[line["row"]], region),
            row=names[line["row"]],
            distance=line["distance"],
        )
        for line in lines[:shown]
    )


def _gaps(coverage: Coverage, texts: Sequence[str], vectors: Array, *, region: str | None, seed: int) -> tuple[Topic, ...]:
    """What the uncovered rows are about; their share is of all real rows."""
    rows = np.flatnonzero(~coverage.table["covered"].to_numpy())
    if len(rows) < 2 * LEAST:
        return ()
    found = find_topics([texts[int(r)] for r in rows], vectors[rows], topics=min(8, len(rows) // LEAST), region=region, seed=seed)
    return tuple(
        Topic(
            name=line["name"], terms=tuple(line["terms"]), rows=line["rows"], share=line["rows"] / len(texts),
            central=_masked(texts[int(rows[line["central"]])], region),
        )
        for line in found.table.to_pylist()
    )  # fmt: skip


def _masked(text: str, region: str | None) -> str:
    """The beginning of a text; masked before it is cut, for half a value would not be known as one."""
    return mask_personal(text[: 4 * _SHOWN], region=region)[:_SHOWN]


def _picture(training: Array, real: Array, coverage: Coverage, generator: np.random.Generator) -> dict[str, Any]:
    covered = coverage.table["covered"].to_numpy()
    ours, theirs, variance = flatten(training, real)

    def points(places: Array, rows: Sequence[int]) -> tuple[Point, ...]:
        return tuple(Point(x=round(float(places[r, 0]), 3), y=round(float(places[r, 1]), 3)) for r in rows)

    real_rows = _some(len(real), _POINTS, generator)
    return {
        "training_points": points(ours, _some(len(ours), _POINTS, generator)),
        "covered_points": points(theirs, [r for r in real_rows if covered[r]]),
        "uncovered_points": points(theirs, [r for r in real_rows if not covered[r]]),
        "variance": variance,
    }
