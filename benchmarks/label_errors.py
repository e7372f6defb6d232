"""Suspected labels on Banking77 with planted errors, ours and cleanlab: `python -m benchmarks.label_errors --peers FOLDER --work FOLDER`.

The rows are split in two halves, label by label. Errors are planted in each half by itself: uniform (any other label) or confusable (one of
the three labels with the nearest mean vectors), 5 % or 20 % of the rows. The cut of our probability and the share of neighbours that give
the best F1 over all four settings are chosen on the first half, and every figure is from the second, with 95 % intervals (bootstrap over
rows). Banking77 has errors of its own, which count as false alarms here: precision is a lower bound, the same for every method.

Peer: cleanlab from PyPI in an environment of its own (`--make-peers` creates it).
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.corpora import Array
from curation.embed import embed
from curation.validate.label_errors import find_label_errors, nearest

DATA = Path(__file__).parents[2] / "shared" / "data" / "classbalance" / "banking77_train.csv"
SETTINGS = [(kind, rate) for kind in ("uniform", "confusable") for rate in (0.05, 0.2)]
CUTS = (0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.1, 0.2)
SHARES = (0.0, 0.1, 0.2, 0.3, 0.4)
ROUNDS = 400


def main() -> None:
    """Print what is found as it is, then each method's ranking and flags on planted errors."""
    args = _arguments()
    if not DATA.is_file():
        sys.exit(f"{DATA} is not here.")
    texts, names = _read()
    args.work.mkdir(parents=True, exist_ok=True)
    if not (args.work / "vectors.npy").is_file():
        np.save(args.work / "vectors.npy", embed(texts))
    vectors = np.load(args.work / "vectors.npy")
    if args.make_peers and not (args.peers / "cleanlab").exists():
        subprocess.run([sys.executable, "-m", "venv", str(args.peers / "cleanlab")], check=True)
        subprocess.run([str(args.peers / "cleanlab" / "bin" / "pip"), "install", "-q", "cleanlab", "scikit-learn"], check=True)
    as_they_are(vectors, names)
    labels = np.unique(names, return_inverse=True)[1]
    halves = _halves(labels)
    cut, share = choose(vectors, labels, halves[0])
    print(f"chosen on the first half: probability below {cut}, at most {share} of the neighbours")
    for kind, rate in SETTINGS:
        report(vectors, labels, halves[1], kind, rate, cut=cut, share=share, args=args)


def as_they_are(vectors: Array, names: list[str]) -> None:
    """Print what is found in the data without planted errors."""
    start = time.process_time()
    found = find_label_errors(vectors, names)
    took = time.process_time() - start
    near, _ = nearest(vectors, 10)
    most = [Counter(names[n] for n in row).most_common(1)[0] for row in near.tolist()]
    against = {row for row, (label, votes) in enumerate(most) if label != names[row] and votes >= 8}
    print(
        f"{len(names):,} rows as they are: {len(found.suspects)} suspects, {len(found.pairs)} pairs, {took:.1f} CPU s; of {len(against)}"
        f" rows with 8 of 10 neighbours under one other label {len(against & {s.row for s in found.suspects})} are suspects"
    )


def choose(vectors: Array, labels: Array, rows: Array) -> tuple[float, float]:
    """Return the cut and the share with the best mean F1 over the four settings."""
    by_cut, by_share = dict.fromkeys(CUTS, 0.0), dict.fromkeys(SHARES, 0.0)
    for n, (kind, rate) in enumerate(SETTINGS):
        given, wrong = plant(vectors[rows], labels[rows], kind, rate, seed=n)
        scores, shares = ours(vectors[rows], given)
        for cut in CUTS:
            by_cut[cut] += _f1(scores > 1 - cut, wrong)
        for share in SHARES:
            by_share[share] += _f1(shares <= share + 1e-9, wrong)
    print("mean F1 by cut:", {cut: round(total / 4, 3) for cut, total in by_cut.items()})
    return max(by_cut, key=lambda cut: by_cut[cut]), max(by_share, key=lambda share: by_share[share])


def report(
    vectors: Array, labels: Array, rows: Array, kind: str, rate: float, *, cut: float, share: float, args: argparse.Namespace
) -> None:
    """Print average precision, precision and recall of each method on one setting."""
    unit = vectors[rows]
    given, wrong = plant(unit, labels[rows], kind, rate, seed=100)
    scores, shares = ours(unit, given)
    methods: dict[str, tuple[Array, Array]] = {
        "ours": (scores, scores > 1 - cut),
        "ours, default .02": (scores, scores > 0.98),
        "neighbours": (1 - shares, shares <= share + 1e-9),
    }
    methods |= _cleanlab(unit, given, args)
    print(f"\n{kind} {rate:.0%}: {int(wrong.sum())} of {len(rows):,} labels planted")
    for name, (score, flags) in methods.items():
        figures = [_interval(score, flags, wrong, measure) for measure in (_average_precision, _precision, _recall)]
        print(f"| {name} | {' | '.join(figures)} | {int(flags.sum())} |")


def plant(unit: Array, labels: Array, kind: str, rate: float, *, seed: int) -> tuple[Array, Array]:
    """Return labels with planted errors, and the mask of the errors."""
    rng, classes = np.random.default_rng(seed), int(labels.max()) + 1
    wrong = rng.random(len(labels)) < rate
    if kind == "uniform":
        other = (labels + rng.integers(1, classes, len(labels))) % classes
    else:
        means = np.stack([unit[labels == one].mean(axis=0) for one in range(classes)])
        means /= np.linalg.norm(means, axis=1, keepdims=True)
        cosines = means @ means.T
        np.fill_diagonal(cosines, -2)
        other = np.argsort(-cosines, axis=1)[labels, rng.integers(0, 3, len(labels))]
    return np.where(wrong, other, labels), wrong


def ours(unit: Array, given: Array) -> tuple[Array, Array]:
    """Return one minus the probability of each row's label (0 where it is the most likely one), and its share of the neighbours."""
    scores, found = np.zeros(len(given)), find_label_errors(unit, [str(label) for label in given], probability=1.0)
    for one in found.suspects:
        scores[one.row] = 1 - one.probability
    near, _ = nearest(unit, 10)
    return scores, (given[near] == given[:, None]).mean(axis=1)


def _cleanlab(unit: Array, given: Array, args: argparse.Namespace) -> Mapping[str, tuple[Array, Array]]:
    python = args.peers / "cleanlab" / "bin" / "python"
    if not python.exists():
        print(f"cleanlab is not in {args.peers}; --make-peers installs it")
        return {}
    folder = args.work / "peer"
    folder.mkdir(exist_ok=True)
    np.save(folder / "vectors.npy", unit)
    np.save(folder / "labels.npy", given)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [str(python), str(Path(__file__).parent / "peers" / "labels.py"), str(folder)]
    done = json.loads(subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout.splitlines()[-1])
    print(f"cleanlab: {done['cpu']:.0f} CPU s")
    return {"cleanlab, logistic regression": (np.load(folder / "scores.npy"), np.load(folder / "issues.npy"))}


def _average_precision(score: Array, flags: Array, wrong: Array) -> float:
    order = np.argsort(-score, kind="stable")
    hits = wrong[order]
    return float((np.cumsum(hits) / np.arange(1, len(hits) + 1))[hits].mean())


def _precision(score: Array, flags: Array, wrong: Array) -> float:
    return float(wrong[flags].mean()) if flags.any() else 1.0


def _recall(score: Array, flags: Array, wrong: Array) -> float:
    return float(flags[wrong].mean())


def _f1(flags: Array, wrong: Array) -> float:
    return float(2 * (flags & wrong).sum() / max(1, flags.sum() + wrong.sum()))


def _interval(score: Array, flags: Array, wrong: Array, measure: Any) -> str:
    rng = np.random.default_rng(0)
    drawn = (rng.integers(0, len(wrong), len(wrong)) for _ in range(ROUNDS))
    low, high = np.quantile([measure(score[rows], flags[rows], wrong[rows]) for rows in drawn], (0.025, 0.975))
    return f"{measure(score, flags, wrong):.3f} ({low:.3f} to {high:.3f})"


def _halves(labels: Array) -> tuple[Array, Array]:
    order = np.random.default_rng(7).permutation(len(labels))
    by_label = order[np.argsort(labels[order], kind="stable")]
    return np.sort(by_label[::2]), np.sort(by_label[1::2])


def _read() -> tuple[list[str], list[str]]:
    with DATA.open(newline="", encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    return [line["text"] for line in lines], [line["category"] for line in lines]


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", type=Path, required=True, help="folder with the environments of other tools")
    parser.add_argument("--work", type=Path, required=True, help="folder for vectors")
    parser.add_argument("--make-peers", action="store_true", help="create the environments from PyPI")
    return parser.parse_args()


if __name__ == "__main__":
    main()
