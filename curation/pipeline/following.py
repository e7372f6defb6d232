"""What comes next in a project, read from what was done and how the rows stand. Nothing is measured."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from curation.errors import command
from curation.pipeline.bench import Bench
from curation.project import planned_rows
from curation.records import KINDS
from curation.snapshot.manifest import SIGNATURE
from curation.store import facts, records, reviews, runs

MAKERS = ("import", "generate", "refill")
"""Stages that bring rows in; the gates look at the rows after the last of them."""
GATES = ("score", "dedup", "screen")


def next_step(bench: Bench) -> str:
    """The command that brings the project on, in one line."""
    ran = runs.latest_numbers(bench.db)
    if not any(planned_rows(bench.project).values()) and not ran.keys() & {*MAKERS} and bench.project.review.mode == "none":
        return f"{command('curate', 'import', bench.folder)} FILE"
    verb = _before_people(bench, ran) or _with_people(bench, ran)
    return command("curate", verb, bench.folder) if verb else _after_people(bench)


def _before_people(bench: Bench, ran: Mapping[str, int]) -> str | None:
    made = runs.latest_with_rows(bench.db, MAKERS)
    cells = records.count_cells(bench.db)
    if not cells and (not made or any(planned_rows(bench.project).values())):
        return "plan"
    if cells and records.count_cells(bench.db, waiting=True):
        return "generate"
    gates = GATES[1:] if bench.project.score.is_off else GATES
    if stale := next((gate for gate in gates if ran.get(gate, 0) < made), None):
        return stale
    return "refill" if cells and max(ran.get("decide", 0), ran.get("push", 0)) < ran["screen"] else None


def _with_people(bench: Bench, ran: Mapping[str, int]) -> str | None:
    verdicts, held = facts.verdict_counts(bench.db), reviews.held_seqs(bench.db)
    if bench.project.review.mode == "none":
        return "decide" if ran.get("decide", 0) < ran["screen"] else None if verdicts["approved"] else "report"
    waiting = facts.seqs_with_verdict(bench.db, "to_review") | facts.seqs_with_verdict(bench.db, "in_review")
    if waiting - held or not (verdicts or ran.get("push")):
        return "push"
    if waiting and facts.seqs_with_verdict(bench.db, "dropped") & held:
        return "push"  # it takes them out of the annotators' queue
    if waiting:
        return "pull"
    return None if verdicts["approved"] else "report"


def _after_people(bench: Bench) -> str:
    if bench.project.review.mode == "sample" and facts.verdict_counts(bench.db)["held"]:
        return "raise review.sample, or set review.mode: all, in project.yaml: the sample's error rate is above review.max_error"
    frozen = {run["detail"].get("kind"): run["run"] for run in runs.list_runs(bench.db, "snapshot") if run["state"] == "done"}
    changed, approved = runs.latest_with_rows(bench.db, ("pull", "import")), facts.approved_kinds(bench.db)
    for kind in KINDS:
        if kind in approved and frozen.get(kind, 0) <= changed:
            return command("curate", "snapshot", bench.folder, "--kind", kind)
    latest = {s["kind"]: bench.folder / Path(s["path"]) for s in reviews.list_snapshots(bench.db)}
    if unsigned := next((path for path in latest.values() if path.is_dir() and not (path / SIGNATURE).is_file()), None):
        return command("curate", "sign", unsigned)
    return f"{command('train', 'init', bench.folder / 'runs', '--project', bench.folder)} --model MODEL"
