"""Diversity and coverage of a planned set and of one prompt repeated:  python benchmarks/diversity.py [--rows 240] [--out FILE]

MECHANICAL. The teacher is the mock provider with its rule of mode collapse (simulation/mode_collapse.py): for whatever a request says it
has 40 ideas and takes the k-th with a share that falls as k to the power -1.3. The law was written down before any prompt and knows
none of ours. So the figures show that the plan, the avoid-list and the refill do what they are for; how various a real model writes
only a real model can show.

Each configuration runs plan, generate, score, dedup, screen and refill over HTTP. Then the remaining rows are compared with as many
answers to the naive prompt. Goals: Vendi at least 1.5 times the naive prompt's at equal size, coverage after refill at least .95.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from curation import api as stages
from curation.simulation import process
from curation.template import write_template

BRIEF = "Answer hobby gardeners' questions about soil, compost, pests, vegetables and watering in two to four sentences."
ATTRIBUTES = {
    "topic": [
        "soil", "compost", "pests", "beans", "herbs", "tomatoes", "watering", "pruning", "seedlings", "slugs", "mulch", "greenhouses",
    ],
    "task": ["question", "comparison", "troubleshooting"],
    "difficulty": {"basic": 5, "intermediate": 3, "advanced": 2},
    "persona": ["beginner", "allotment holder", "school teacher", "chef"],
}  # fmt: skip
SETUPS: dict[str, dict[str, Any]] = {
    "attributes only": {},
    "with an avoid-list": {"avoid": 6},
    "five in a call, avoid-list": {"per_call": 5, "avoid": 4},
    "verbalized sampling": {"sampling": "verbalized"},
}
GOAL_RATIO, GOAL_COVERAGE = 1.5, 0.95


@dataclass(frozen=True)
class Measured:
    """Result of one configuration."""

    name: str
    size: int
    coverage_before: float
    coverage: float
    planned: dict[str, float]
    naive: dict[str, float]
    ratio: float
    seconds: float

    @property
    def holds(self) -> bool:
        """Return whether both goals are met."""
        return self.ratio >= GOAL_RATIO and self.coverage >= GOAL_COVERAGE


def measure(name: str, plan: dict[str, Any], home: Path, *, rows: int, rounds: int = 3) -> Measured:
    """Run one configuration with its own mock provider, and measure it."""
    folder, started = home / "garden", time.monotonic()
    write_template(folder, "blank", offline=True, instruction=rows, preference=0)
    path = folder / "project.yaml"
    value = yaml.safe_load(path.read_text(encoding="utf-8").replace("TODO", "Answers"))
    value["brief"] = BRIEF
    value["plan"] |= {"attributes": ATTRIBUTES, "refill": {"rounds": rounds}, **plan}
    path.write_text(yaml.safe_dump(value, sort_keys=False), encoding="utf-8")
    process.start(folder, table=None, seed=7, log=home / "log", options={"collapse": ""})
    try:
        counts = {summary.stage: summary.counts for summary in stages.run(folder, until="refill")}
        found = stages.diversity(folder, naive=rows).counts
    finally:
        process.stop(folder)
    before, after = counts["refill"]["coverage_before"], counts["refill"]["coverage"]
    both = found["planned"], found["naive"]
    return Measured(name, found["compared_at"], before, after, *both, found["vendi_ratio"], time.monotonic() - started)


def main() -> int:
    """Measure every configuration and print a table; exit 1 if none meets both goals."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--rows", type=int, default=240)
    parser.add_argument("--setup", choices=list(SETUPS), action="append", help="only these")
    parser.add_argument("--out", type=Path, help="write the figures as JSON")
    options = parser.parse_args()
    results = []
    print("| mechanical, mock provider | rows compared | coverage before, after refill | Vendi planned / naive | ratio | "
          "effective clusters | nearest neighbour | s |\n|---|---|---|---|---|---|---|---|")  # fmt: skip
    for name in options.setup or SETUPS:
        with tempfile.TemporaryDirectory() as home:
            found = measure(name, SETUPS[name], Path(home), rows=options.rows)
        results.append(found)
        ours, theirs = found.planned, found.naive
        print(
            f"| {name} | {found.size} | {found.coverage_before:.3f}, {found.coverage:.3f} | {ours['vendi']:.1f} / {theirs['vendi']:.1f} | "
            f"{found.ratio:.2f} | {ours['effective_clusters']:.1f} / {theirs['effective_clusters']:.1f} | "
            f"{ours['nearest']:.3f} / {theirs['nearest']:.3f} | {found.seconds:.0f} |",
            flush=True,
        )
    if options.out:
        options.out.write_text(json.dumps([vars(found) for found in results], indent=1), encoding="utf-8")
    return 0 if any(found.holds for found in results) else 1


if __name__ == "__main__":
    sys.exit(main())
