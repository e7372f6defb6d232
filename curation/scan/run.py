"""Run a scan: the steps in order, each a number of independent tasks that leave a file, and the findings as Parquet parts."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from curation.dedup.lsh import FEW, bands_for
from curation.errors import ProjectError
from curation.scan import leaks, near, pairs, semantic
from curation.scan.findings import part_name, read_counts, write_findings
from curation.scan.job import Job, ScanSettings
from curation.scan.storage import Facts, Folder, Part, inspect_part, read_facts, units_of
from curation.scan.workers import Cost, Workers

LISTING = "scan.json"
"""Written last: a folder without it holds no complete findings."""
PLAN = "plan.json"


@dataclass(frozen=True)
class Scanned:
    """Result of a scan."""

    rows: int
    parts: int
    found: dict[str, int]
    """Findings by kind."""
    costs: dict[str, Cost]
    """Cost of the tasks that this command ran, by step; finished ones were not run again."""
    kept: int
    """Tasks that an earlier command had finished."""
    notes: tuple[str, ...] = ()


class Run:
    """The job, growing by the files of each step, and what the tasks found and cost."""

    def __init__(self, job: Job, workers: Workers) -> None:
        self.job, self.workers, self.kept = job, workers, 0
        self.costs: dict[str, Cost] = {}
        self.facts: dict[str, list[Facts]] = {}

    def step(self, name: str, function: Callable[..., Facts], tasks: Sequence[tuple[Any, ...]], files: Sequence[str] | None = None) -> None:
        """Run the tasks whose file is missing.

        Args:
            name: of the step and of its folder.
            function: the task.
            tasks: its arguments.
            files: name of each task's file; by default its number.
        """
        names = tuple(files or (f"{number:06d}.arrow" for number in range(len(tasks))))
        there = set(self.job.work.below(name).names(".arrow"))
        missing = [place for place, file in enumerate(names) if file not in there]
        self.kept += len(tasks) - len(missing)
        found, self.costs[name] = self.workers.run(name, function, self.job, [tasks[place] for place in missing])
        facts = dict(zip(missing, found, strict=True))
        self.facts[name] = [
            facts[place] if place in facts else read_facts(self.job.work, f"{name}/{file}") for place, file in enumerate(names)
        ]
        self.job = replace(self.job, files=self.job.files | {name: names})


def scan(source: str, target: str, settings: ScanSettings, workers: Workers) -> Scanned:
    """Find duplicates and leaks in a folder of Parquet parts, and write the findings as Parquet parts.

    Of duplicates the first row is kept, in the order of the parts' names. The intermediate files are below TARGET/work until the scan ends.

    Args:
        source: folder of Parquet files: a path or a URL.
        target: folder of the findings.
        settings: columns and gates.
        workers: run the tasks; all of them must reach both folders.

    Raises:
        ProjectError: a part is damaged, the target holds something else, a store fails, or workers die; finished tasks are kept.
    """
    rows, findings = Folder.of(source), Folder.of(target)
    names = rows.names(".parquet")
    if not names:
        raise ProjectError(rows.url, "holds no .parquet files", "name the folder of the parts")
    parts, cost = workers.run("inspect", inspect_part, rows, [(name, settings.columns) for name in names])
    _open_target(findings, rows, parts, settings)
    units = units_of(parts, settings.rows_per_task)
    work = findings.below("work")
    run = Run(Job(rows, work, findings, settings, units, bands_for(settings.near)), workers)
    run.costs["inspect"] = cost
    if (report := findings.read(LISTING)) is None:
        notes = list[str]()
        if units:
            find_near_in_parts(run)
            if settings.semantic is not None:
                notes += _find_semantic(run)
            if settings.suites:
                _match_leaks(run)
        found = _write_findings(run)
        body = {"parts": len(parts), "rows": run.job.rows, "found": found, "notes": notes}
        report = json.dumps(body, indent=2).encode()
        findings.write(LISTING, report)
    work.remove()
    said = json.loads(report)
    return Scanned(said["rows"], said["parts"], said["found"], run.costs, run.kept, tuple(said["notes"]))


def _open_target(target: Folder, source: Folder, parts: Sequence[Part], settings: ScanSettings) -> None:
    """Write the plan of a scan, or compare it with the one that the target holds.

    Raises:
        ProjectError: the target is the source, or holds other findings or other files.
    """
    if target.url == source.url:
        raise ProjectError(target.url, "is the folder of the parts", "name another folder for the findings")
    body = [asdict(settings), [asdict(part) for part in parts], source.url, _code_digest()]
    digest = hashlib.sha256(json.dumps(body).encode()).hexdigest()
    known = target.read(PLAN)
    if known is None:
        if target.names():
            raise ProjectError(target.url, "holds other files", "name an empty folder for the findings")
        target.write(PLAN, json.dumps({"digest": digest, "source": source.url, "parts": len(parts)}).encode())
    elif json.loads(known).get("digest") != digest:
        raise ProjectError(
            target.url, "holds findings of other parts, other settings or another version", "name another folder, or remove it"
        )


def _code_digest() -> str:
    """Return a digest of the code that the files of a scan depend on: files of other code must not be continued."""
    package, digest = Path(__file__).parents[1], hashlib.sha256()
    for file in sorted(file for name in ("dedup", "leakage", "scan") for file in (package / name).rglob("*.py")):
        digest.update(file.read_bytes())
    return digest.hexdigest()


def _choose_bands(run: Run) -> tuple[int, int]:
    places = near.sampled_places(run.job.rows)
    units = np.searchsorted(run.job.starts, places, side="right") - 1
    tasks = [(unit, places[units == unit]) for unit in np.unique(units).tolist()]
    sample, run.costs["sample"] = run.workers.run("sample", near.sample_texts, run.job, tasks)
    return near.bands_by(sample, run.job)


def find_near_in_parts(run: Run) -> None:
    """Find the exact and near-duplicates: the files of the steps `equal` and `compare-decide`."""
    if run.job.rows >= FEW:
        run.job = replace(run.job, bands=_choose_bands(run))
    job = run.job
    run.step("sketch", near.sketch, _numbers(len(job.units)))
    run.step("equal", near.equal, _numbers(job.prefixes))
    tasks = [(band, prefix) for band in range(job.bands[0]) for prefix in range(job.prefixes)]
    run.step("share", near.share, tasks, [f"{band:03d}-{prefix:06d}.arrow" for band, prefix in tasks])
    run.step("attach", near.attach, _numbers(job.buckets))
    run.step("compare", near.compare, _numbers(job.buckets))
    decide_pairs(run, "compare", joins=True)


def _find_semantic(run: Run) -> list[str]:
    job = run.job
    run.step("embed", semantic.embed, _numbers(len(job.units)))
    left, notes = sum(facts["rows"] for facts in run.facts["embed"]), []
    if left <= job.settings.exact_up_to:
        _compare_vectors(run, 0)
        decide_pairs(run, "cosines-0", joins=False)
        return []
    run.step("train", semantic.train, [(semantic.cells_for(left),)])
    run.step("nearest", semantic.nearest, _numbers(len(job.units)))
    for probes in semantic.PROBES:
        _compare_vectors(run, probes)
        recall = semantic.recall_of(run.job, probes)
        if semantic.is_enough(recall):
            break
    else:
        notes.append(f"Semantic duplicates: cells found only {recall:.3f} of the sampled rows' nearest duplicates.")
    notes.append(f"Semantic duplicates: inverted file, {probes} of {semantic.cells_for(left):,} cells, sampled recall {recall:.4f}.")
    decide_pairs(run, f"cosines-{probes}", joins=False)
    return notes


def _match_leaks(run: Run) -> None:
    run.step("match", leaks.match, _numbers(len(run.job.units)))
    if run.job.work.read(leaks.CUTS) is None:
        _, run.costs["cuts"] = run.workers.run("cuts", leaks.set_cuts, run.job, [()])


def _write_findings(run: Run) -> dict[str, int]:
    """Write the parts of findings that are missing, and return the findings of all by kind."""
    there = set(run.job.target.names(".parquet"))
    tasks = [(bucket,) for bucket in range(run.job.buckets) if part_name(bucket) not in there]
    run.kept += run.job.buckets - len(tasks)
    _, run.costs["findings"] = run.workers.run("findings", write_findings, run.job, tasks)
    totals = Counter[str]()
    for bucket in range(run.job.buckets):
        totals.update(read_counts(run.job.target, part_name(bucket)))
    return dict(totals)


def _numbers(count: int) -> list[tuple[int]]:
    return [(number,) for number in range(count)]


def _compare_vectors(run: Run, probes: int) -> None:
    run.step(f"assign-{probes}", semantic.assign, [(unit, probes) for unit in range(len(run.job.units))])
    groups = semantic.cell_groups(run.job, probes)
    run.step(f"cosines-{probes}", semantic.cosines, [(group, probes) for group in range(groups)])
    run.job = replace(run.job, files=run.job.files | {f"recall-{probes}": run.job.files[f"cosines-{probes}"]})


def decide_pairs(run: Run, step: str, *, joins: bool) -> None:
    """Find the components of the pairs of a step and decide each."""
    groups = run.job.groups
    run.job = replace(run.job, files=run.job.files | {f"{step}-star-0": run.job.files[step]})
    before, turn = _checksum(run, step), 0
    while True:
        for star in (pairs.large_star, pairs.small_star):
            turn += 1
            run.step(f"{step}-star-{turn}", star, [(step, turn, group) for group in range(groups)])
        after = _checksum(run, f"{step}-star-{turn}")
        if after == before:
            break
        before = after
    run.step(f"{step}-root", pairs.root, [(step, f"{step}-star-{turn}", group) for group in range(groups)])
    run.step(f"{step}-decide", pairs.decide, [(step, group, joins) for group in range(groups)])


def _checksum(run: Run, step: str) -> tuple[int, int]:
    """Return the number of edges that a step left, and a number that does not depend on their order."""
    facts = run.facts[step]
    return sum(own["edges"] for own in facts), sum(own["checksum"] for own in facts) % 2**64
