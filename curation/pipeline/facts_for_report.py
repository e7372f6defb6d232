"""Gather from the workbench what the report shows. Read-only. Core: report/."""

from __future__ import annotations

import importlib.metadata
import json
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from curation import report as page
from curation.pipeline import facts_of_work as work
from curation.pipeline.asking import count_failed
from curation.pipeline.balancing import STANDING
from curation.pipeline.bench import Bench, label_of, load_cells, load_protected
from curation.pipeline.deciding import GATES
from curation.pipeline.describing import load_comparison, load_descriptions
from curation.pipeline.facts_of_judging import judge_quality, score_sets
from curation.pipeline.facts_of_pairs import pair_hygiene
from curation.pipeline.facts_of_rows import balance_facts, difficulty_facts, diversity_facts
from curation.pipeline.screening import load_points, point_in_words
from curation.pipeline.staleness import find_stale
from curation.project import settings_digest
from curation.records import KINDS, Kind, whole_text
from curation.store import facts, records, runs
from curation.store.facts import Finding
from curation.store.records import Row

PACKAGES = ("seedcorn", "argilla", "anthropic", "datasketch", "faiss-cpu", "sentence-transformers", "pyarrow")
WORDS = {
    "below_cut": "below the cut",
    "flips": "judge flips with the order",
    "exact": "copy",
    "near": "near copy",
    "semantic": "says the same",
    "leak_exact": "protected text",
    "leak_contained": "contains protected text",
    "leak_span": "shares a long span",
    "leak_edited": "edited protected text",
    "leak_reworded": "reworded protected text",
    "leak_judged": "gives a protected item away, says the leak judge",
    "over_cap": "over its class's cap",
    "held": "outside the review sample, which is not settled",
}
"""Kinds of findings whose names need better words."""
SHOWN_STAGES = ("generate", "import", "score", "dedup", "screen", "push", "pull", "snapshot")


def report_data(bench: Bench, *, names: Mapping[str, str] | None = None) -> page.ReportData:
    """Return everything the page shows at this moment; parts that were not run are None.

    Args:
        bench: the project.
        names: how the annotators appear, by user name; None for their own names, as in the data lead's report.
    """
    project, db = bench.project, bench.db
    rows = {kind: records.list_rows(db, kind) for kind in KINDS}
    by_seq = {row.seq: row for kind in KINDS for row in rows[kind]}
    verdicts, findings = facts.verdicts_by_seq(db), facts.latest_findings(db, GATES)
    ran = {stage for stage in SHOWN_STAGES if runs.latest_run(db, stage)}
    standin = "offline-stand-in" in (project.models.teacher.provider, project.models.judge.provider)
    return page.ReportData(
        project=project.name,
        brief=project.brief.strip(),
        created=datetime.now(UTC),
        digest=settings_digest(project),
        versions={package: importlib.metadata.version(package) for package in PACKAGES},
        intended_use=project.intended_use.strip(),
        models=_models(bench, ran),
        reviewed=_reviewed(bench),
        sources=tuple(f"{s.name} ({s.license}, written by {s.written_by})" for s in records.list_sources(db)),
        models_simulated=standin,
        funnel=_funnel(bench, verdicts) if verdicts else None,
        scores=score_sets(bench) if "score" in ran else None,
        judge=judge_quality(bench, verdicts) if "score" in ran else None,
        pairs=pair_hygiene(bench, verdicts) if verdicts else None,
        drops=_drops(bench, verdicts, by_seq) if verdicts else None,
        suites=_suites(bench, findings, len(by_seq)) if "screen" in ran else None,
        leaks=_leaks(bench, findings, by_seq),
        gate_alarms=_gate_alarms(bench),
        conflicts=_conflicts(bench, findings, by_seq) if "screen" in ran else None,
        distributions=_distributions(bench, rows, verdicts) if by_seq else None,
        coverage=_coverage(bench, verdicts, rows),
        difficulty=difficulty_facts(bench, rows),
        balance=balance_facts(bench),
        descriptions=load_descriptions(bench),
        comparison=load_comparison(bench),
        stale=tuple(map(str, find_stale(bench))),
        diversity=diversity_facts(bench, simulated=standin),
        review=work.review_facts(bench, verdicts, by_seq, names=names) if "pull" in ran else None,
        cost=work.cost_facts(bench, verdicts, standin),
        failures=work.failures_facts(bench),
        snapshots=work.snapshots_facts(bench) if "snapshot" in ran else None,
        runs=work.runs_facts(bench),
    )


def _reviewed(bench: Bench) -> str:
    """Which rows people review, where that is not all of them, and what a sample came to at the latest decision."""
    if (mode := bench.project.review.mode) == "all":
        return ""
    if mode == "none":
        return "none: no person is asked to review the rows"
    run = runs.latest_run(bench.db, "decide")
    samples = json.loads(run["detail"] or "{}").get("review_sample", {}) if run else {}
    said = [
        f"{s['bad']:,} of {s['rows']:,} reviewed {kind} rows are bad, out of {s['population']:,}; 95 % interval of the rate "
        f"{s['low']:.1%} to {s['high']:.1%}"
        for kind, s in samples.items()
    ]  # fmt: skip
    return "; ".join(["a random sample of the rows", *said])


def _models(bench: Bench, ran: Collection[str]) -> dict[str, str]:
    """The models that wrote or judged rows of the project."""
    models = bench.project.models
    named = {"teacher": models.teacher.model} if records.count_cells(bench.db) or "generate" in ran else {}
    return named | ({"judge": models.judge.model} if not bench.project.score.is_off and "score" in ran else {})


def _gate_alarms(bench: Bench) -> tuple[str, ...]:
    latest = [run for stage in (*GATES, "decide") if (run := runs.latest_run(bench.db, stage))]
    return tuple(alarm for run in latest for alarm in json.loads(run["detail"] or "{}").get("gate_alarms", ()))


def in_words(kind: str) -> str:
    """A kind of finding as people say it."""
    return WORDS.get(kind, kind.replace("_", " "))


def _funnel(bench: Bench, verdicts: Mapping[int, Mapping[str, Any]]) -> tuple[page.FunnelStep, ...]:
    """Each row is counted at the first stage that stopped it."""
    first = Counter(
        (v["reasons"][0]["stage"], v["reasons"][0]["kind"]) for v in verdicts.values() if v["verdict"] == "dropped" and v["reasons"]
    )
    left, steps = len(verdicts), []
    failed = sum(count_failed(bench, "generate").values())
    steps.append(page.FunnelStep(stage="written or imported", entered=left + failed, left=left, reasons=count_failed(bench, "generate")))
    for stage in ("score", "dedup", "screen", "balance", "override"):
        reasons = {in_words(kind): n for (at, kind), n in first.items() if at == stage}
        if reasons or stage not in ("balance", "override"):
            steps.append(page.FunnelStep(stage=stage, entered=left, left=left - sum(reasons.values()), reasons=reasons))
            left -= sum(reasons.values())
    people = Counter(v["verdict"] for v in verdicts.values())
    waiting = {in_words(k): people[k] for k in ("unscored", "held", "to_review", "in_review") if people[k]}
    settled = {k: people[k] for k in ("rejected", "disputed", "edited") if people[k]}
    steps.append(page.FunnelStep(stage="review", entered=left, left=people["approved"], reasons={**settled, **waiting}))
    return tuple(steps)


def _drops(bench: Bench, verdicts: Mapping[int, Mapping[str, Any]], by_seq: Mapping[int, Row]) -> tuple[page.Drop, ...]:
    measures = {"near": "similarity", "exact": "similarity", "semantic": "cosine", "below_cut": "total"}
    out = []
    for seq, verdict in verdicts.items():
        if verdict["verdict"] != "dropped" or seq not in by_seq or not verdict["reasons"]:
            continue
        row, why = by_seq[seq], verdict["reasons"][0]
        twin = by_seq.get(why.get("twin", 0))
        text, twin_text = whole_text(row.record), whole_text(twin.record) if twin else None
        out.append(
            page.Drop(
                row=row.id, stage=why["stage"], reason=in_words(why["kind"]), text=text, kind=row.kind,
                twin=twin.id if twin else None, twin_text=twin_text, measure=measures.get(why["kind"], "score"),
                value=why.get("score"), evidence=why.get("evidence", ""),
                label=label_of(bench, row), twin_label=label_of(bench, twin) if twin else None,
                cluster=twin.id[:12] if twin and why["stage"] == "dedup" else None,
            )
        )  # fmt: skip
    return tuple(out)


def _suites(bench: Bench, findings: Sequence[Finding], screened: int) -> tuple[page.ProtectedSuite, ...]:
    flagged = Counter((f.item or "").split(":")[0] for f in findings if f.kind.startswith("leak_") and f.drops)
    rate, points = bench.project.screen.false_positive_rate, load_points(bench)
    asked = f"{rate:.1%} of clean rows may be flagged (screen.false_positive_rate), estimated against the nearest other protected items"
    return tuple(
        page.ProtectedSuite(
            name=p.name, file=p.file.name, items=len(p.texts), screened=screened, flagged=flagged[p.name], digest=p.sha256,
            operating_point=f"cut at {point_in_words(points[p.name])}: {asked}" if p.name in points else asked,
        )
        for p in load_protected(bench)
    )  # fmt: skip


def _leaks(bench: Bench, findings: Sequence[Finding], by_seq: Mapping[int, Row]) -> tuple[page.Leak, ...]:
    """What took rows out as leaks; what the leak judge cleared or left open stays with the row and is no leak."""
    found = [f for f in findings if f.kind.startswith("leak_") and f.drops and f.seq in by_seq]
    texts = {p.name: p.texts for p in load_protected(bench)} if found else {}
    out = []
    for f in found:
        suite, _, item = (f.item or ":").partition(":")
        shown, evidence = _shown_item(f.evidence, texts.get(suite, []), item)
        method = "leak judge" if f.kind == "leak_judged" else f.kind.removeprefix("leak_").replace("_", " ")
        out.append(page.Leak(row=by_seq[f.seq].id, suite=suite, item=item, method=method, text=by_seq[f.seq].prompt,
                             item_text=shown, score=f.score, evidence=evidence))  # fmt: skip
    return tuple(out)


def _shown_item(evidence: str, texts: Sequence[str], item: str) -> tuple[str, str]:
    """The protected text and the rest of the evidence: the text stands in the evidence, or in the suite under its number."""
    if not evidence.startswith("protected: "):
        return texts[int(item)] if item.isdigit() and int(item) < len(texts) else "", evidence
    rest = evidence.removeprefix("protected: ")
    shown, end = json.JSONDecoder().raw_decode(rest)
    return shown, rest[end:].removeprefix(". ")


def _conflicts(bench: Bench, findings: Sequence[Finding], by_seq: Mapping[int, Row]) -> tuple[page.Conflict, ...]:
    out = []
    for f in findings:
        row, twin = by_seq.get(f.seq), by_seq.get(f.twin or 0)
        if f.kind == "conflict" and row and twin:
            out.append(
                page.Conflict(
                    row=row.id,
                    text=row.prompt,
                    label=label_of(bench, row) or "",
                    twin=twin.id,
                    twin_text=twin.prompt,
                    twin_label=label_of(bench, twin) or "",
                    outcome="sent to review",
                )
            )
    return tuple(out)


def _distributions(
    bench: Bench, rows: Mapping[Kind, Sequence[Row]], verdicts: Mapping[int, Mapping[str, Any]]
) -> tuple[page.Distribution, ...]:
    cells = {cell.id: cell for cell in load_cells(bench)}
    everything = [row for kind in KINDS for row in rows[kind]]
    good = {seq for seq, v in verdicts.items() if v["verdict"] in STANDING}
    grounding, out = bench.project.plan.grounding, []
    names = ([grounding.topic] if grounding and grounding.topic else []) + list(bench.project.plan.attributes)
    for name in names:

        def value(cell: Any, name: str = name) -> str | None:
            found = (cell.row or {}).get(name) if grounding and name == grounding.topic else cell.attributes.get(name)
            return str(found) if found is not None else None

        planned = Counter(v for c in cells.values() if (v := value(c)))
        before = Counter(v for r in everything if r.cell in cells and (v := value(cells[r.cell])))
        after = Counter(v for r in everything if r.seq in good and r.cell in cells and (v := value(cells[r.cell])))
        classes = tuple(page.ClassCount(name=v, before=before[v], after=after[v], planned=n) for v, n in planned.most_common())
        out.append(page.Distribution(name=name, classes=classes))
    return tuple(out)


def _coverage(bench: Bench, verdicts: Mapping[int, Mapping[str, Any]], rows: Mapping[Kind, Sequence[Row]]) -> page.Coverage | None:
    names = list(bench.project.plan.attributes)[:2]
    # A cell that was asked for stays as it is, so one planned before an attribute was added does not have it.
    cells = [cell for cell in load_cells(bench) if set(names) <= cell.attributes.keys()]
    if len(names) < 2 or not cells:
        return None
    alive = {row.cell for kind in KINDS for row in rows[kind] if verdicts.get(row.seq, {}).get("verdict") in STANDING}
    planned = Counter((c.attributes[names[0]], c.attributes[names[1]]) for c in cells)
    have = Counter((c.attributes[names[0]], c.attributes[names[1]]) for c in cells if c.id in alive)
    # As the plan lists them: basic, intermediate, advanced is an order, and the alphabet is none.
    places = [{value: n for n, value in enumerate(bench.project.plan.attributes[name])} for name in names]
    order = sorted(planned, key=lambda two: tuple((at.get(value, len(at)), value) for at, value in zip(places, two, strict=True)))
    crossed = tuple(page.CoverageCell(row=a, column=b, planned=planned[a, b], have=have[a, b]) for a, b in order)
    return page.Coverage(rows=names[0], columns=names[1], cells=crossed)
