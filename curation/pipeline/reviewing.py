"""The stages around people: push rows to Argilla, pull what they said. Core: decide.py; effect: review.py."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from curation import agreement as agreeing
from curation import review as argilla
from curation import score as scoring
from curation.decide import Decision
from curation.errors import ProjectError, command
from curation.pipeline.asking import Progress
from curation.pipeline.bench import Bench, Summary, load_cells, open_bench
from curation.pipeline.deciding import better_candidate, decide, decide_rows
from curation.pipeline.duplicates import vectors_of
from curation.pipeline.edits import add_edits
from curation.pipeline.following import next_step
from curation.pipeline.judging import totals_by_seq
from curation.pipeline.opinions import opinions_by_seq
from curation.pipeline.sampling import is_unseen
from curation.project import settings_digest
from curation.records import KINDS, Kind
from curation.report.attention import describe_alpha
from curation.review import ArgillaReview, Shown
from curation.store import facts, records, reviews, runs
from curation.store.records import Row
from curation.store.reviews import StoredAnswer

OVERALL = "overall"
REVIEWED = ("to_review", "in_review", "approved", "rejected", "disputed", "edited")


def push(folder: Path, *, progress: Progress | None = None) -> Summary:
    """Show people every row that machines let through; what Argilla already holds is updated only where it differs."""
    with open_bench(folder) as bench:
        project = bench.project
        if project.review.mode == "none":
            fact = "has review: none, so no row is shown to people"
            raise ProjectError(f"{folder}/project.yaml", fact, command("curate", "snapshot", folder))
        with runs.record_run(bench.db, "push", settings_digest(project.review, list(project.score.rubric))) as run:
            review = _connect(bench)
            by_kind, withdrawn = Counter[str](), 0
            for kind in KINDS:
                rows = _rows_to_show(bench, kind)
                withdrawn += _withdrawn(bench, kind, rows)
                run.rows_in += len(rows)
                if rows:
                    by_kind[kind] = _push_kind(bench, review, kind, rows, progress)
            run.rows_out = sum(by_kind.values())
            run.detail = dict(by_kind)
        counts = {"to_show": run.rows_in, "sent": dict(by_kind), "unchanged": run.rows_in - run.rows_out}
        notes = [f"{withdrawn} rows that people may have seen no longer pass; they stay in Argilla and do not count."] if withdrawn else []
        notes.append(f"Annotators answer at {review.url}")
        return Summary("push", run.rows_in, run.rows_out, counts, notes)


def pull(folder: Path) -> Summary:
    """Bring back what people said, make a record of every edit, and decide again. Core: decide.py."""
    with open_bench(folder) as bench:
        with runs.record_run(bench.db, "pull", settings_digest(bench.project.review)) as run:
            review = _connect(bench)
            seqs = {identity: seq for seq, identity in records.ids_of(bench.db).items()}
            new = 0
            for kind in KINDS:
                dataset = dataset_name(bench, kind)
                payloads, form = reviews.pushed_payloads(bench.db, dataset), _form_digest(bench, kind)
                answers = [
                    StoredAnswer(given.response, given.updated, seqs[given.record], given.user, given.status, dict(given.values),
                                 payloads.get(seqs[given.record], ""), form, given.user.startswith(argilla.SIMULATED))
                    for given in argilla.pull_answers(review, dataset)
                    if given.record in seqs
                ]  # fmt: skip
                run.rows_in += len(answers)
                new += reviews.add_answers(bench.db, answers, run.number)
            edits = add_edits(bench, run.number)
            run.rows_out = new
            run.detail = {"new": new, "edits": edits}
        runs.forget_earlier(bench.db, "pull", than=run.number, idle=True)
        # One who looks every minute, as `curate serve` does, computes nothing anew while nobody answers.
        is_old = runs.latest_numbers(bench.db).get("decide", 0) < runs.latest_with_rows(bench.db, ("pull",))
        verdicts = decide(folder).counts if is_old else dict(facts.verdict_counts(bench.db))
        counts = {"answers": run.rows_in, "new": new, "edited_records": edits, **review_counts(bench), "verdicts": verdicts}
        alpha = counts["agreement"]
        notes = [f"Agreement is Krippendorff's alpha: {alpha:.2f} is {describe_alpha(alpha)}."] if alpha is not None else []
        if counts["disputed"]:
            notes.append("Disputed rows wait for an answer to be changed, or for `curate keep` or `curate drop`; the report shows them.")
        return Summary("pull", run.rows_in, run.rows_out, counts, [*notes, f"Next: {next_step(bench)}"])


def review_counts(bench: Bench, kinds: Sequence[Kind] = KINDS) -> dict[str, Any]:
    """How far the review of these kinds is and how well people agree (Krippendorff's alpha, each kind's question by itself)."""
    kind_of = records.kinds_by_seq(bench.db)
    opinions = {seq: said for seq, said in opinions_by_seq(bench).items() if said and kind_of[seq] in kinds}
    disputed = facts.seqs_with_verdict(bench.db, "disputed")
    flat = [o for said in opinions.values() for o in said]
    questions = [[said for seq, said in opinions.items() if kind_of[seq] == kind] for kind in kinds]
    return {
        "records": len(opinions),
        "opinions": len(flat),
        "disputed": sum(kind_of[seq] in kinds for seq in disputed),
        "agreement": agreeing.agreement_within(questions),
        "estimated_error_rate": agreeing.estimate_error_rate(opinions.values()),
        "simulated": any(o.simulated for o in flat),
        "reviewers": sorted({o.user for o in flat}),
    }


def project_words(bench: Bench, kind: Kind) -> str:
    """What annotators read first: the brief, the shape that an answer must have, and the project's own guidelines."""
    project = bench.project
    parts = [f"# The brief\n\n{project.brief.strip()}"]
    if project.records.output_format.strip():
        answer = "completion" if kind == "instruction" else "response"
        parts.append(f"Every {answer} has this shape:\n\n```\n{project.records.output_format.strip()}\n```")
    if project.review.guidelines is not None:
        file = bench.folder / project.review.guidelines
        if not file.is_file():
            where = f"{bench.folder / 'project.yaml'}: review.guidelines"
            raise ProjectError(where, f"names {file}, which is not there", "write that file, or set it to null")
        parts.append(file.read_text(encoding="utf-8").strip())
    return "\n\n".join(parts)


def dataset_name(bench: Bench, kind: Kind) -> str:
    """Name of the dataset in Argilla."""
    return f"{bench.project.name}-{kind}"


def _connect(bench: Bench) -> ArgillaReview:
    review = bench.project.review
    return argilla.connect(bench.folder, argilla=review.argilla, workspace=review.workspace, annotators=review.annotators)


def _rows_to_show(bench: Bench, kind: Kind) -> list[tuple[Row, Decision]]:
    decisions = {d.seq: d for d in decide_rows(bench) if d.verdict in REVIEWED and not is_unseen(d)}
    return [(row, decisions[row.seq]) for row in records.list_rows(bench.db, kind) if row.seq in decisions]


def _withdrawn(bench: Bench, kind: Kind, rows: Sequence[tuple[Row, Decision]]) -> int:
    return len(reviews.pushed_payloads(bench.db, dataset_name(bench, kind)).keys() - {row.seq for row, _ in rows})


def _push_kind(bench: Bench, review: ArgillaReview, kind: Kind, rows: Sequence[tuple[Row, Decision]], progress: Progress | None) -> int:
    dataset, criteria = dataset_name(bench, kind), [*bench.project.score.rubric, OVERALL]
    vectors = vectors_of(bench, [row.prompt for row, _ in rows])
    shown = argilla.fit_to_page(review, _shown(bench, kind, [row for row, _ in rows], vectors))
    held = reviews.pushed_payloads(bench.db, dataset)
    changed = {item.id: (row.seq, item) for (row, _), item in zip(rows, shown, strict=True) if held.get(row.seq) != item.digest}
    settings = argilla.form_settings(
        kind,
        criteria=criteria,
        dimensions=vectors.shape[1],
        overlap=bench.project.review.overlap,
        words=project_words(bench, kind),
        literal=review.literal,
    )
    sent = 0
    for batch in argilla.push_records(review, dataset, (item for _, item in changed.values()), settings=settings):
        reviews.mark_pushed(bench.db, dataset, [(changed[item.id][0], item.digest) for item in batch])
        sent += len(batch)
        if progress:
            progress("push", sent, len(changed), kind)
    return sent


def _shown(bench: Bench, kind: Kind, rows: Sequence[Row], vectors: Any) -> list[Shown]:
    digest = scoring.rubric_digest(bench.project)
    values, totals = facts.scores_by_seq(bench.db, digest), totals_by_seq(bench)
    candidates = {row.id: row.seq for row in records.list_rows(bench.db, "instruction", role="candidate")} if kind == "preference" else {}
    attributes = {cell.id: {**cell.attributes, **_topic(bench, cell.row)} for cell in load_cells(bench)}
    out = []
    for row, vector in zip(rows, vectors, strict=True):
        seq = row.seq if kind == "instruction" else better_candidate(row, candidates)
        known = {*bench.project.score.rubric, OVERALL}
        scores = {name: float(value) for name, value in values.get(seq, {}).items() if name in known}
        if seq in totals:
            scores["total"] = round(totals[seq], 2)
        terms = {**attributes.get(row.cell or "", {}), "source": row.how}
        out.append(argilla.show(row.record, row.id, scores=scores, terms=terms, vector=[round(float(v), 6) for v in vector]))
    return out


def _topic(bench: Bench, row: Mapping[str, Any] | None) -> dict[str, str]:
    grounding = bench.project.plan.grounding
    topic = row.get(grounding.topic) if row and grounding and grounding.topic else None
    return {"topic": str(topic)} if topic else {}


def _form_digest(bench: Bench, kind: Kind) -> str:
    criteria, overlap = list(bench.project.score.rubric), bench.project.review.overlap
    return argilla.form_digest(kind, criteria=criteria, overlap=overlap, words=project_words(bench, kind))
