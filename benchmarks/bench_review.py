"""Coverage of the intervals of a review, and the rows that an acceptance certificate needs.

    python -m benchmarks.bench_review --seeds 200 [--shared ../shared/data]

Prints how often each interval covers the truth for twelve simulated annotators, three of whom err together; the same of a judge's
calibration where few rows below the cut were read; the rows that each design must read against the best fixed design; how many rows a
sequential reading takes on average; and, with recorded judges in the shared folder, how often calibration intervals cover held-out halves.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from curation.quality.bounds import most_bad_betting
from curation.quality.certificate import AcceptPolicy, choose_design, rows_to_read
from tests.support.judged_rows import cover_weighted, false_alarms
from tests.support.recorded_judges import cover_halves, read_recorded
from tests.support.review_crowd import cover


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=200, help="simulated reviews")
    parser.add_argument("--resamples", type=int, default=100, help="random halves of each recorded judge")
    parser.add_argument("--shared", type=Path, help="folder with judge/ and quality/")
    args = parser.parse_args()
    print("| interval or certificate | covers the truth | of |\n|---|---|---|")
    for name, rate in cover(range(args.seeds)).items():
        print(f"| {name} | {rate.share:.3f} | {rate.n:,} |")
    print("\n| calibration with few rows read below the cut | covers | of |\n|---|---|---|")
    for name, rate in cover_weighted(range(args.seeds)).items():
        print(f"| {name} | {rate.share:.3f} | {rate.n:,} |")
    alarms = false_alarms(range(args.seeds))
    print(f"drift announced where there is none: {alarms.share:.3f} of {alarms.n:,}")
    print("\n| rows | max error | best fixed | chosen design | ratio | looks: any | ratio |\n|---|---|---|---|---|---|---|")
    for rows in (300, 1_000, 5_000, 100_000):
        for most in (0.01, 0.03):
            print_sizes(rows, AcceptPolicy(max_error=most))
    print("\nrows read until 1 % is shown at 95 %, of 20,000, looking after every 10 (mean of 40 orders)")
    for bad in (0, 20, 50):
        print(f"  {bad / 20_000:.2%} bad: {sequential_rows(20_000, bad, 0.01):,.0f}")
    if args.shared:
        print("\n| recorded judge | rows | shares covered | areas covered |\n|---|---|---|---|")
        for name, (scores, approved) in read_recorded(args.shared).items():
            found = cover_halves(scores, approved, resamples=args.resamples)
            print(f"| {name} | {found.rows} | {found.bins:.3f} | {found.area:.3f} |")


def print_sizes(rows: int, policy: AcceptPolicy) -> None:
    """Print the rows that each design reads if none is bad; five equal strata."""
    best = rows_to_read(policy, {"all": rows}, method="hypergeometric")
    strata = {f"stratum {n}": rows // 5 for n in range(5)}
    once, repeated = (choose_design(policy, strata, controls=None, sequential=looks) for looks in (False, True))
    assert best and once.rows and repeated.rows
    ratios = once.rows / best, repeated.rows / best
    chosen = f"{once.method} {once.rows}"
    print(f"| {rows:,} | {policy.max_error:.0%} | {best} | {chosen} | {ratios[0]:.2f} | {repeated.rows} | {ratios[1]:.2f} |")


def sequential_rows(rows: int, bad: int, most: float) -> float:
    """Return the mean number of rows read until the betting bound is within the policy, over random orders."""
    read = []
    for seed in range(40):
        positions = np.sort(np.random.default_rng(seed).permutation(rows)[:bad] + 1)
        for n in range(100, rows, 10):
            found = [int(at) for at in positions[positions <= n]]
            if most_bad_betting(found, n, rows, 0.05) - len(found) <= most * (rows - n):
                break
        read.append(n)
    return float(np.mean(read))


if __name__ == "__main__":
    main()
