"""`curate decide` and `curate status` on a large project, before and after the state of a project was loaded once.

    python -m benchmarks.bench_state --decide 200000 --status 100000 --old COMMIT

Each command runs as a process of its own, on copies of one project, once with a worktree of the old commit and once with this tree.
Prints processor and wall seconds of both and their ratio. The rows are imported, scored on four criteria and an overall score; one
row in twenty has a finding, one in a hundred was annotated by two people.
"""

from __future__ import annotations

import argparse
import os
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
OLD = "46e850c"
"""The last commit before the state was loaded once."""


def main() -> None:
    """Build the projects, run both trees and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--decide", type=int, default=200_000, help="rows of the project that is decided")
    parser.add_argument("--status", type=int, default=100_000, help="rows of the project whose status is read")
    parser.add_argument("--old", default=OLD, help="commit to compare with")
    parser.add_argument("--repeat", type=int, default=1, help="runs of each command; the fastest counts")
    parser.add_argument("--keep", type=Path, help="folder for the projects, which are then built once")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        old, projects = Path(name) / "old", args.keep or Path(name)
        subprocess.run(["git", "worktree", "add", "--quiet", "--detach", old, args.old], cwd=ROOT, check=True)
        try:
            for verb, rows in (("decide", args.decide), ("status", args.status)):
                compare(verb, make_project(projects, rows), {"old": old, "new": ROOT}, repeat=args.repeat)
        finally:
            subprocess.run(["git", "worktree", "remove", "--force", old], cwd=ROOT, check=True)


def compare(verb: str, project: Path, trees: dict[str, Path], *, repeat: int) -> None:
    """Run a command with each tree and print its seconds and the ratio.

    Args:
        verb: the command of `curate`.
        project: copied before each run, so that both trees meet the same state.
        trees: name to source tree.
        repeat: runs of each tree, taken in turns.
    """
    best: dict[str, tuple[float, float]] = {}
    for _ in range(repeat):
        for name, tree in trees.items():
            cpu, wall = run_copy(verb, project, tree)
            best[name] = min(best.get(name, (cpu, wall)), (cpu, wall))
    for name, (cpu, wall) in best.items():
        print(f"curate {verb}, {project.name} rows, {name}: {cpu:6.2f} s processor, {wall:6.2f} s wall", flush=True)
    print(f"curate {verb}: new takes {best['new'][0] / best['old'][0]:.2f} of the processor time of old", flush=True)


def run_copy(verb: str, project: Path, tree: Path) -> tuple[float, float]:
    """Return (processor seconds, wall seconds) of a command on a copy of the project."""
    with tempfile.TemporaryDirectory(dir=project.parent) as name:
        copy = shutil.copytree(project, Path(name) / "project")
        environ = os.environ | {"PYTHONPATH": str(tree)}
        before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        subprocess.run(
            [sys.executable, "-m", "curation", verb, str(copy), "--json"], cwd=tree, env=environ, check=True, capture_output=True
        )
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, time.perf_counter() - started


def make_project(folder: Path, rows: int) -> Path:
    """Return the folder of a project with so many rows, which is built where it is missing."""
    from curation import api as stages
    from curation.config.project import load_project
    from curation.judge import rubric as judge
    from curation.records import make_instruction
    from curation.store import facts, records, reviews, runs
    from curation.store.database import open_store
    from curation.store.facts import Finding
    from curation.store.records import Origin
    from curation.store.reviews import StoredAnswer
    from curation.template import write_template

    project = folder / str(rows)
    if (project / "built").exists():
        return project
    write_template(project, "blank", offline=True, instruction=0, preference=0)
    path = project / "project.yaml"
    text = re.sub(r"(?m)^(brief|intended_use): .*$", r"\1: answer questions", path.read_text())
    path.write_text(re.sub(r"(?m)^  semantic: .*$", "  semantic: null", text))
    config = load_project(project)
    digest, criteria = judge.rubric_digest(config), list(config.score.rubric)
    with open_store(project) as db:
        with runs.record_run(db, "import") as run:
            for start in range(0, rows, 5_000):
                made = [
                    (make_instruction(f"Question {n} about subject {n % 997}?", f"Answer {n}. " * 20, label=f"class-{n % 60}"), n)
                    for n in range(start, min(rows, start + 5_000))
                ]
                records.add_records(db, [(record, Origin("imported", "file", n)) for record, n in made], run.number)
            run.rows_in = run.rows_out = rows
        seqs = records.row_seqs(db)
        with runs.record_run(db, "score", digest) as run:
            for start in range(0, len(seqs), 5_000):
                some = seqs[start : start + 5_000]
                values = [
                    (seq, digest, criterion, 3 + seq // (place + 1) % 3, "fits the brief", f"call-{seq}")
                    for seq in some
                    for place, criterion in enumerate([*criteria, "overall"])
                ]
                facts.add_scores(db, values, run.number)
            run.rows_in = run.rows_out = rows
        for stage, kind in (("dedup", "near"), ("screen", "leak_exact")):
            with runs.record_run(db, stage) as run:
                found = [Finding(seq, stage, kind, True, seq - 1, score=0.8, evidence="jaccard 0.8") for seq in seqs[1::40]]
                facts.add_findings(db, found, run.number)
        with runs.record_run(db, "pull") as run:
            says = {"verdict": "approve", "edited_completion": ""}
            given = [
                StoredAnswer(f"{seq}:{user}", "2026-11-01T00:00:00+00:00", seq, user, "submitted", says, "", "", False)
                for seq in seqs[::100]
                for user in ("ada", "ben")
            ]
            run.rows_out = reviews.add_answers(db, given, run.number)
    stages.decide(project)
    (project / "built").touch()
    return project


if __name__ == "__main__":
    main()
