"""Semantic duplicates, ours and other tools side by side: `python -m benchmarks.semantic --rows 100000 --peers /tmp/peers --work FOLDER`.

`--part join`: all rows against one another at a cosine, from the same vectors of real texts, ours (`find_semantic`) and semhash with
searches of several widths; each in a process and environment of its own, in turn; ours `--rounds` times and the median counts, semhash
once, as it takes minutes (`--all-rounds`: as often). Truth: every pair by matrix products. A row is missed when it stays though an
earlier row that stays is alike; recall is fallen / (fallen + missed).
`--part embed`: rows a second of sentence-transformers as it comes and of `embed`, in turn, and how near the vectors are.
Texts and vectors are kept in `--work`, so that they are made once.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.corpora import Array, real_texts
from curation.embed import DEFAULT_MODEL, embed

ROOT = Path(__file__).parents[1]
TOLERANCE = 1e-5
"""Cosines this close to the threshold count as correct either way: tools add numbers in different orders."""


def main() -> None:
    """Run the requested parts and print a table of each."""
    args = _arguments()
    texts = real_texts(args.rows)
    if texts is None:
        sys.exit("The team's texts (../shared/data) are not here.")
    print(f"{len(texts):,} real texts, {sum(map(len, texts)) / len(texts):.0f} characters each", flush=True)
    if args.part in ("embed", "both"):
        race_embedding(texts[:: max(1, len(texts) // args.sample)][: args.sample], args.rounds)
    if args.part in ("join", "both"):
        if args.make_peers:
            make_peer(args.peers)
        race_join(prepare(texts, args.work), args)


def make_peer(folder: Path) -> None:
    """Create semhash's environment, from PyPI."""
    if not (folder / "semhash").exists():
        subprocess.run([sys.executable, "-m", "venv", str(folder / "semhash")], check=True)
        subprocess.run([str(folder / "semhash" / "bin" / "pip"), "install", "-q", "semhash"], check=True)


def prepare(texts: list[str], work: Path) -> Path:
    """Write a folder with these texts and their vectors."""
    digest = hashlib.sha256("\0".join(texts).encode()).hexdigest()[:12]
    folder = work / f"{len(texts)}-{digest}"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "texts.json").write_text(json.dumps(texts))
    if not (folder / "vectors.npy").is_file():
        start = time.perf_counter()
        np.save(folder / "vectors.npy", embed(texts))
        print(f"embedded in {time.perf_counter() - start:.0f} s", flush=True)
    return folder


def race_join(folder: Path, args: argparse.Namespace) -> None:
    """Run each tool in turn, then compare their results."""
    results: dict[str, list[dict[str, Any]]] = {tool: [] for tool in args.tools}
    for turn in range(args.rounds):
        for tool in args.tools:
            if turn == 0 or tool == "ours" or args.all_rounds:
                results[tool].append(run_tool(tool, folder, args.threshold, args.peers))
                print("  ", json.dumps(results[tool][-1]), flush=True)
    pairs, scores = true_pairs(np.load(folder / "vectors.npy"), args.threshold - TOLERANCE)
    print(f"{len(pairs):,} pairs of rows at a cosine of {args.threshold}")
    print(f"{'tool':14} {'CPU s':>8} {'wall s':>8} {'MB':>7} {'x ours':>7}   fallen  precision recall")
    own = statistics.median(run["cpu"] for run in results["ours"])
    for tool, runs in results.items():
        good = [run for run in runs if "cpu" in run]
        if not good:
            print(f"{tool:14} {runs[0]}")
            continue
        cpu, wall, rss = (statistics.median(run[key] for run in good) for key in ("cpu", "wall", "rss_mb"))
        fallen, precision, recall = judge(np.load(folder / f"{tool}.npy"), pairs, scores >= args.threshold + TOLERANCE)
        print(
            f"{tool:14} {cpu:8.2f} {wall:8.2f} {rss:7.0f} {cpu / own:7.2f}   {fallen:,}  {precision:.5f} {recall:.5f}  "
            f"{good[0].get('search', '')}"
        )


def run_tool(tool: str, folder: Path, threshold: float, peers: Path) -> dict[str, Any]:
    """Run one tool in a separate process; return its last line, or the reason for its failure."""
    python = sys.executable if tool == "ours" else str(peers / "semhash" / "bin" / "python")
    if not Path(python).exists():
        return {"tool": tool, "missing": python}
    environment = {k: v for k, v in os.environ.items() if not k.startswith("OPENBLAS_") and k != "PYTHONPATH"}
    if tool == "ours":
        environment["PYTHONPATH"] = str(ROOT)
    command = [python, str(Path(__file__).parent / "peers" / "meaning.py"), tool, str(folder), str(threshold)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=folder)
    if done.returncode:
        return {"tool": tool, "failed": (done.stderr.strip().splitlines() or ["killed"])[-1][:200]}
    return dict(json.loads(done.stdout.strip().splitlines()[-1]))


def true_pairs(vectors: Array, threshold: float, *, block: int = 2048) -> tuple[Array, Array]:
    """Return (earlier, later) of every two rows at the threshold, and their cosines."""
    pairs, scores = [np.empty((0, 2), np.int32)], [np.empty(0, np.float32)]
    for start in range(0, len(vectors), block):
        cosines = vectors[: start + block] @ vectors[start : start + block].T
        earlier, later = np.nonzero(cosines >= threshold)
        before = earlier < later + start
        earlier, later = earlier[before], later[before]
        pairs.append(np.stack([earlier, later + start], axis=1).astype(np.int32))
        scores.append(cosines[earlier, later])
    return np.concatenate(pairs), np.concatenate(scores)


def judge(kept: Array, pairs: Array, is_sure: Array) -> tuple[int, float, float]:
    """Return dropped rows, the share of them that is similar to a kept row, and recall."""
    stays = kept == np.arange(len(kept))
    behind = pairs[stays[pairs[:, 0]]]
    has_kept_twin = np.zeros(len(kept), bool)
    has_kept_twin[behind[:, 1]] = True
    fallen = ~stays
    sure = pairs[is_sure & stays[pairs[:, 0]] & stays[pairs[:, 1]]]
    missed = len(np.unique(sure[:, 1]))
    return (
        int(fallen.sum()),
        float(has_kept_twin[fallen].mean()) if fallen.any() else 1.0,
        float(fallen.sum() / max(1, fallen.sum() + missed)),
    )


def race_embedding(texts: list[str], rounds: int) -> None:
    """Time sentence-transformers' own `encode` and ours, in turn."""
    from curation.embed import _load

    encoder, vectors, cost = _load(DEFAULT_MODEL), dict[str, Array](), dict[str, list[tuple[float, float]]]()
    tools: dict[str, Callable[[], Array]] = {
        "sentence-transformers": lambda: np.asarray(encoder.encode(texts, normalize_embeddings=True, show_progress_bar=False)),
        "ours, auto": lambda: embed(texts),
        "ours, openvino-f32": lambda: embed(texts, backend="openvino-f32"),
    }
    embed([f"{text} " for text in texts] * 8 if len(texts) >= 256 else texts, backend="openvino")  # converted and measured before
    for _ in range(rounds):
        for name, run in tools.items():
            before, start = _cpu(), time.perf_counter()
            vectors[name] = run()
            cost.setdefault(name, []).append((_cpu() - before, time.perf_counter() - start))
    print(f"{len(texts):,} texts\n{'tool':24} rows a CPU second  rows a second   x   lowest cosine")
    base = statistics.median(cpu for cpu, _ in cost["sentence-transformers"])
    for name, times in cost.items():
        cpu, wall = statistics.median(t[0] for t in times), statistics.median(t[1] for t in times)
        near = float((vectors[name] * vectors["sentence-transformers"]).sum(axis=1).min())
        print(f"{name:24} {len(texts) / cpu:17.1f} {len(texts) / wall:14.1f} {base / cpu:5.2f} {near:.5f}")


def _cpu() -> float:
    own = resource.getrusage(resource.RUSAGE_SELF)
    return own.ru_utime + own.ru_stime


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=5_000)
    parser.add_argument("--sample", type=int, default=256, help="texts for --part embed")
    parser.add_argument("--threshold", type=float, default=0.9)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--all-rounds", action="store_true")
    parser.add_argument("--part", choices=("join", "embed", "both"), default="both")
    parser.add_argument("--tools", nargs="+", default=["ours", "semhash:64", "semhash:256"])
    parser.add_argument("--peers", type=Path, default=Path("/tmp/peers"))
    parser.add_argument("--make-peers", action="store_true")
    parser.add_argument("--work", type=Path, default=Path("build/semantic"), help="where texts and vectors are kept")
    return parser.parse_args()


if __name__ == "__main__":
    main()
