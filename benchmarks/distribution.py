"""Growth of describe, compare and balance: seconds and memory at 1,000, 10,000 and 100,000 synthetic rows.

    python benchmarks/distribution.py [ROWS …]

Texts are assembled from words, vectors are drawn around 40 middles, so no model is timed; embedding is what costs most in
practice and is timed in benchmarks/semantic.py. Each size runs in a process of its own, so that its peak memory is its own.
"""

from __future__ import annotations

import json
import multiprocessing
import resource
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

REAL = 2_000
WORDS = ("card", "account", "transfer", "fee", "pin", "rate", "exchange", "cash", "top", "refund", "order", "street", "note", "fever")


def made_up(rows: int, *, seed: int) -> tuple[list[str], list[str], np.ndarray[Any, Any]]:
    """Return prompts of about 60 characters, answers of about 300 (one in 200 with an address), and their vectors."""
    draw = np.random.default_rng(seed)
    words = np.array(WORDS)
    prompts = [" ".join(words[draw.integers(0, len(words), 10)]) + f" {n}?" for n in range(rows)]
    answers = [" ".join(words[draw.integers(0, len(words), 55)]) + (f" mail a{n}@bank.co" if n % 200 == 0 else ".") for n in range(rows)]
    middles = np.random.default_rng(0).normal(size=(40, 384))
    vectors = middles[draw.integers(0, 40, rows)] + 0.6 * draw.normal(size=(rows, 384))
    return prompts, answers, vectors.astype(np.float32)


def measure(rows: int) -> dict[str, float]:
    """Return the seconds of each part and the peak memory."""
    from curation.distribution.balance import count_classes, measure_balance, rows_over_cap
    from curation.distribution.drift import Sample, compare
    from curation.distribution.profile import RowInfo, describe
    from curation.distribution.topics import find_topics

    prompts, answers, vectors = made_up(rows, seed=1)
    real, _, real_vectors = made_up(REAL, seed=2)
    labels = [f"class {int(n)}" for n in np.random.default_rng(3).zipf(1.6, rows) % 200]
    held = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    find_topics(prompts[:50], vectors[:50])  # what is loaded once is not timed

    def timed(work: Callable[[], Any]) -> tuple[float, Any]:
        start = time.perf_counter()
        made = work()
        return round(time.perf_counter() - start, 2), made

    seconds: dict[str, float] = {}
    seconds["topics"], topics = timed(lambda: find_topics(prompts, vectors))
    seconds["describe"], found = timed(lambda: describe(prompts, answers, RowInfo(classes={"label": labels}), topics=topics))
    seconds["compare"], _ = timed(lambda: compare(Sample(prompts, vectors), Sample(real, real_vectors)))
    seconds["balance"], _ = timed(lambda: (measure_balance(count_classes(labels)), rows_over_cap(labels, range(rows), cap=50)))
    rate = found.estimate(sum(p.rows for p in found.personal))
    assert rate.low <= 1 / 200 <= rate.high
    return {"rows": rows, **seconds, "MB": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024), "MB of the data": round(held)}


def main() -> None:
    """Print one line of JSON per size."""
    sizes = [int(size) for size in sys.argv[1:]] or [1_000, 10_000, 100_000]
    context = multiprocessing.get_context("spawn")
    for rows in sizes:
        with context.Pool(1) as pool:
            print(json.dumps(pool.apply(measure, (rows,))), flush=True)


if __name__ == "__main__":
    main()
