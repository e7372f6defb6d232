"""The stages around people: push rows to Argilla, pull what they said. Core: decide.py; effect: review.py."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from argilla_setup import forms
from curation import agreement as agreeing
from curation import review as argilla
from curation import score as scoring
from curation.errors import ProjectError, command
from curation.pipeline.asking import Progress
from curation.pipeline.bench import Bench, Summary, load_cells, open_bench
from curation.pipeline.classes import meta_columns, meta_text
from curation.pipeline.deciding import better_candidate, decide, decide_rows
from curation.pipeline.duplicates import vectors_of
from curation.pipeline.edits import add_edits
from curation.pipeline.following import command_to_admit, next_step
from curation.pipeline.judging import totals_by_seq
from curation.pipeline.opinions import opinions_by_seq
from curation.pipeline.sampling import is_unseen
from curation.project import settings_digest
from curation.records import KINDS, Kind
from curation.report.attention import describe_alpha
from curation.review import ArgillaReview, Dataset, Member, Shown
from curation.review.records import (
    Answered,
    Given,
    Held,
    push_records,
    read_records,
    restore_records,
    return_records,
    withdraw_records,
)
from curation.store import facts, records, reviews, runs
from curation.store.records import Row
from curation.store.reviews import Place, StoredAnswer

OVERALL = "overall"
REVIEWED = ("to_review", "in_review", "approved", "rejected", "disputed", "edited")


def push(folder: Path, *, progress: Progress | None = None) -> Summary:
    """Show people every row that passed the gates, and take rows that no longer pass out of their queue.

    What Argilla holds is read first: only differences are sent, and what is missing there is sent again with the answers given so far.
    """
    with open_bench(folder) as bench:
        project = bench.project
        if project.review.mode == "none":
            fact = "has review: none, so no row is shown to people"
            raise ProjectError(f"{folder}/project.yaml", fact, command("curate", "snapshot", folder))
        with runs.record_run(bench.db, "push", settings_digest(project.review, list(project.score.rubric))) as run:
            review = _connect(bench)
            absent = argilla.prepare_workspace(review, project.review.annotators)
            members = argilla.list_members(review)
            by_kind, totals = Counter[str](), Counter[str]()
            for kind, rows in rows_to_show(bench).items():
                run.rows_in += len(rows)
                done = _push_kind(bench, review, kind, rows, members=members, progress=progress)
                totals.update(done)
                if rows:
                    by_kind[kind] = done["sent"]
            run.rows_out = sum(by_kind.values())
            others = {name: n for name, n in totals.items() if n and name != "sent"}
            run.detail = {**by_kind, **others, "people": _count_people(bench, members)}
        counts = {"to_show": run.rows_in, "sent": dict(by_kind), "unchanged": run.rows_in - run.rows_out}
        counts |= {name: totals[name] for name in ("sent_again", "restored_answers", "withdrawn", "returned")}
        notes = [*_what_changed(totals), *_who_is_missing(bench, absent, members), f"Annotators answer at {review.url}"]
        return Summary("push", run.rows_in, run.rows_out, counts, notes)


def pull(folder: Path) -> Summary:
    """Bring back what people said, make a record of every edit, and decide again. Core: decide.py."""
    with open_bench(folder) as bench:
        with runs.record_run(bench.db, "pull", settings_digest(bench.project.review)) as run:
            review = _connect(bench)
            new, missing, notes, is_changed = 0, set[int](), list[str](), False
            for kind in KINDS:
                dataset = argilla.find_dataset(review, dataset_name(bench, kind))
                if dataset is None:
                    missing |= reviews.reconcile_pushed(bench.db, Place(review.url, "", dataset_name(bench, kind)), ())
                    continue
                before = argilla.follow_overlap(review, dataset, bench.project.review.overlap)
                if before is not None:
                    is_changed = True
                    notes.append(f"Argilla now asks {bench.project.review.overlap} people for each {kind} row instead of {before}.")
                answers, lost = _read_answers(bench, review, kind, dataset)
                missing |= lost
                run.rows_in += len(answers)
                new += reviews.add_answers(bench.db, answers, run.number)
            edits = add_edits(bench, run.number)
            run.rows_out = new
            run.detail = {"new": new, "edits": edits, "people": _count_people(bench, argilla.list_members(review))}
        runs.forget_earlier(bench.db, "pull", than=run.number, idle=True)
        # `curate serve` pulls every minute; it computes nothing while nobody answers.
        is_old = is_changed or runs.latest_numbers(bench.db).get("decide", 0) < runs.latest_with_rows(bench.db, ("pull",))
        verdicts = decide(folder).counts if is_old else dict(facts.verdict_counts(bench.db))
        counts = {"answers": run.rows_in, "new": new, "edited_records": edits, **review_counts(bench), "verdicts": verdicts}
        waiting = facts.seqs_with_verdict(bench.db, "to_review") | facts.seqs_with_verdict(bench.db, "in_review")
        counts["missing"] = len(missing & waiting)
        alpha = counts["agreement"]
        notes += [f"Agreement is Krippendorff's alpha: {alpha:.2f} is {describe_alpha(alpha)}."] if alpha is not None else []
        if counts["disputed"]:
            notes.append("Disputed rows wait for an answer to be changed, or for `curate keep` or `curate drop`; the report shows them.")
        if counts["missing"]:
            notes.append(
                f"Rows in review that Argilla at {review.url} does not hold: {counts['missing']:,}. `curate push` sends them again."
            )
        return Summary("pull", run.rows_in, run.rows_out, counts, [*notes, f"Next: {next_step(bench)}"])


def _read_answers(bench: Bench, review: ArgillaReview, kind: Kind, dataset: Dataset) -> tuple[list[StoredAnswer], set[int]]:
    """Return the answers in a dataset that are not stored yet, and the records pushed to it that it does not hold.

    A person has one answer to a record. It keeps the response id under which it was first seen, also where the record was sent again and
    Argilla gave the restored response a new id.
    """
    seqs = {identity: seq for seq, identity in records.ids_of(bench.db).items()}
    place = Place(review.url, dataset.id, dataset.name)
    payloads, form = reviews.shown_payloads(bench.db, place), _form_digest(bench, kind)
    stored = reviews.answers_by_person(bench.db)
    answers, found = list[StoredAnswer](), set[int]()
    for held in read_records(review, dataset, responses=True):
        seq = seqs.get(held.id)
        if seq is None:
            continue
        found.add(seq)
        for given in held.responses:
            before = stored.get((seq, given.user))
            if given.withdrawn or (before is not None and before.response != given.response and _says_the_same(before, given)):
                continue
            response = before.response if before is not None else given.response
            simulated = given.user.startswith(argilla.SIMULATED)
            values, payload = dict(given.values), payloads.get(seq, "")
            answers.append(StoredAnswer(response, given.updated, seq, given.user, given.status, values, payload, form, simulated))
    return answers, reviews.reconcile_pushed(bench.db, place, found)


def _says_the_same(before: StoredAnswer, given: Given) -> bool:
    said = [{name: value for name, value in values.items() if value is not None} for values in (before.values, given.values)]
    return before.status == given.status and said[0] == said[1]


def _what_changed(totals: Mapping[str, int]) -> list[str]:
    """Return what a push did beyond sending rows, in sentences."""
    notes = []
    if totals["sent_again"]:
        restored = f" with {totals['restored_answers']:,} answers given before" if totals["restored_answers"] else ""
        notes.append(
            f"Rows pushed before that this Argilla did not hold: {totals['sent_again']:,}. They were sent again{restored}. "
            "`curate drop` takes a row out for good."
        )
    if totals["withdrawn"]:
        notes.append(f"Rows that no longer pass: {totals['withdrawn']:,} left the annotators' queue; answers and drafts are kept.")
    if totals["returned"]:
        notes.append(f"Rows that pass again: {totals['returned']:,} returned to the annotators' queue.")
    return notes


def _who_is_missing(bench: Bench, absent: Sequence[str], members: Sequence[Member]) -> list[str]:
    """Return who cannot answer, and how they are admitted, in sentences."""
    review = bench.project.review
    add = command_to_admit(bench, absent[0] if absent else "NAME")
    notes = []
    if absent:
        state = "has no account in Argilla, or was removed," if len(absent) == 1 else "have no account in Argilla, or were removed,"
        notes.append(f"{', '.join(absent)} {state} and cannot answer. Next: {add}")
    if (people := _count_people(bench, members)) < review.overlap:
        fact = f"review.overlap asks {review.overlap} people for each row, and {people} can answer"
        notes.append(f"{fact}: rows stay in review until there are more, or the overlap is lower. Next: {add}")
    return notes


def _count_people(bench: Bench, members: Sequence[Member]) -> int:
    """Return how many people can answer here or have answered."""
    return len({member.name for member in members} | set(reviews.list_annotators(bench.db)))


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


def rows_to_show(bench: Bench) -> dict[Kind, list[Row]]:
    """Return the rows of each kind that people are asked about."""
    asked = {d.seq for d in decide_rows(bench) if d.verdict in REVIEWED and not is_unseen(d)}
    return {kind: [row for row in records.list_rows(bench.db, kind) if row.seq in asked] for kind in KINDS}


def published_names(bench: Bench) -> dict[str, str]:
    """Return the name of each person who answered as it appears in what leaves the project: a pseudonym, unless the project says `real`."""
    users = reviews.list_annotators(bench.db)
    if bench.project.review.names == "real":
        return {user: user for user in users}
    return reviews.alias_annotators(bench.db, users, simulated=argilla.SIMULATED)


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
    return argilla.connect(bench.folder, argilla=review.argilla, workspace=review.workspace)


def _push_kind(
    bench: Bench, review: ArgillaReview, kind: Kind, rows: Sequence[Row], *, members: Sequence[Member], progress: Progress | None
) -> Counter[str]:
    """Bring one dataset to the state that the rows ask for; the order of the steps makes it safe to be killed between any two."""
    name, done = dataset_name(bench, kind), Counter[str]()
    shown, dataset = _open_dataset(bench, review, kind, rows)
    if dataset is None:
        reviews.reconcile_pushed(bench.db, Place(review.url, "", name), ())
        return done
    place, asked = Place(review.url, dataset.id, name), {row.seq for row in rows}
    known, withdrawn = reviews.pushed_payloads(bench.db, place), reviews.withdrawn_seqs(bench.db, place)
    held = _read_held(bench, review, dataset, responses=bool(withdrawn or known.keys() - asked))
    if held.keys() - asked and not (withdrawn or known.keys() - asked):
        held = _read_held(bench, review, dataset, responses=True)
    missing = reviews.reconcile_pushed(bench.db, place, held.keys()) & asked

    returning = {held[seq].record: seq for seq in asked & held.keys() if seq in withdrawn or any(r.withdrawn for r in held[seq].responses)}
    for record in return_records(review, [held[seq] for seq in returning.values()], members):
        reviews.mark_state(bench.db, place, [returning[record.record]], "held")
        done["returned"] += 1

    same = {seq for seq in asked & held.keys() if seq not in known and held[seq].content == shown[seq].content}
    reviews.mark_pushed(bench.db, place, [(seq, shown[seq].digest) for seq in same])
    changed = [row.seq for row in rows if row.seq not in same and (row.seq not in held or known.get(row.seq) != shown[row.seq].digest)]
    answers = _answers_to_restore(bench, review, [seq for seq in changed if seq not in held])
    seqs = {shown[seq].id: seq for seq in changed}

    def note(batch: Sequence[Shown]) -> None:
        reviews.mark_pushed(bench.db, place, [(seqs[item.id], item.digest) for item in batch])
        done.update(sent=len(batch), sent_again=sum(seqs[item.id] in missing for item in batch))
        if progress:
            progress("push", done["sent"], len(changed), kind)

    for batch in push_records(review, dataset, (shown[seq] for seq in changed if shown[seq].id not in answers)):
        note(batch)
    restoring = (shown[seq] for seq in changed if shown[seq].id in answers)
    for batch, restored in restore_records(review, dataset, restoring, answers):
        note(batch)
        done["restored_answers"] += restored

    fallen, names = held.keys() - asked, {member.name for member in members}
    reviews.mark_pushed(bench.db, place, [(seq, "") for seq in fallen if seq not in known])
    waits = {seq for seq in fallen if seq not in withdrawn or names - {response.user for response in held[seq].responses}}
    leaving = {held[seq].record: seq for seq in waits}
    for record in withdraw_records(review, dataset, [held[seq] for seq in leaving.values()], members):
        reviews.mark_state(bench.db, place, [leaving[record.record]], "withdrawn")
        done["withdrawn"] += leaving[record.record] not in withdrawn
        if progress:
            progress("push", done["withdrawn"], len(leaving), f"{kind}, withdrawn")
    return done


def _open_dataset(bench: Bench, review: ArgillaReview, kind: Kind, rows: Sequence[Row]) -> tuple[dict[int, Shown], Dataset | None]:
    """Return what is to be shown, by seq, and the dataset; without rows none is created."""
    if not rows:
        return {}, argilla.find_dataset(review, dataset_name(bench, kind))
    vectors = vectors_of(bench, [row.prompt for row in rows])
    shown = argilla.fit_to_page(review, _shown(bench, kind, rows, vectors))
    settings = argilla.form_settings(
        kind,
        criteria=[*bench.project.score.rubric, OVERALL],
        dimensions=vectors.shape[1],
        overlap=bench.project.review.overlap,
        words=project_words(bench, kind),
        literal=review.literal,
        filters=bench.project.review.filters,
    )
    dataset = argilla.open_dataset(review, dataset_name(bench, kind), settings=settings)
    return {row.seq: item for row, item in zip(rows, shown, strict=True)}, dataset


def _read_held(bench: Bench, review: ArgillaReview, dataset: Dataset, *, responses: bool) -> dict[int, Held]:
    seqs = {identity: seq for seq, identity in records.ids_of(bench.db).items()}
    found = read_records(review, dataset, responses=responses)
    return {seqs[item.id]: item for item in found if item.id in seqs}


def _answers_to_restore(bench: Bench, review: ArgillaReview, seqs: Collection[int]) -> dict[str, list[Answered]]:
    """Return the latest stored answers to these records, by record id, of everybody who has an account of the same name."""
    wanted = set(seqs)
    stored = {key: answer for key, answer in reviews.answers_by_person(bench.db).items() if key[0] in wanted} if wanted else {}
    if not stored:
        return {}
    people, identities = {person.name: person.id for person in argilla.list_accounts(review)}, records.ids_of(bench.db)
    out: dict[str, list[Answered]] = {}
    for (seq, user), answer in stored.items():
        if user in people:
            out.setdefault(identities[seq], []).append(Answered(people[user], answer.status, answer.values))
    return out


def _shown(bench: Bench, kind: Kind, rows: Sequence[Row], vectors: Any) -> list[Shown]:
    digest = scoring.rubric_digest(bench.project)
    values, totals = facts.scores_by_seq(bench.db, digest), totals_by_seq(bench)
    candidates = {row.id: row.seq for row in records.list_rows(bench.db, "instruction", role="candidate")} if kind == "preference" else {}
    attributes = {cell.id: {**cell.attributes, **_topic(bench, cell.row)} for cell in load_cells(bench)}
    columns = _filter_terms(bench)
    out = []
    for row, vector in zip(rows, vectors, strict=True):
        seq = row.seq if kind == "instruction" else better_candidate(row, candidates)
        known = {*bench.project.score.rubric, OVERALL}
        scores = {name: float(value) for name, value in values.get(seq, {}).items() if name in known}
        if seq in totals:
            scores["total"] = round(totals[seq], 2)
        terms = {**attributes.get(row.cell or "", {}), "source": row.how, **columns.get(row.seq, {})}
        out.append(argilla.show(row.record, row.id, scores=scores, terms=terms, vector=[round(float(v), 6) for v in vector]))
    return out


def _filter_terms(bench: Bench) -> dict[int, dict[str, str]]:
    """Return the values of the columns of `review.filters` of each imported row, by seq and property.

    Raises:
        ProjectError: no imported row has such a column.
    """
    names = bench.project.review.filters
    if not names:
        return {}
    known = meta_columns(bench)
    if missing := next((name for name in names if name not in known), None):
        there = ", ".join(known) or "no metadata columns"
        fact = f"names {missing}, and imported rows have: {there}"
        raise ProjectError("project.yaml: review.filters", fact, "name columns that they have")
    if len({forms.filter_name(name) for name in names}) < len(names):
        fact = "names columns that differ only in capitals or signs, which Argilla cannot tell apart"
        raise ProjectError("project.yaml: review.filters", fact, "leave one of them out")
    return {
        seq: {forms.filter_name(name): text[:200] for name in names if (text := meta_text(values.get(name)))}
        for seq, values in records.meta_by_seq(bench.db, names).items()
    }


def _topic(bench: Bench, row: Mapping[str, Any] | None) -> dict[str, str]:
    grounding = bench.project.plan.grounding
    topic = row.get(grounding.topic) if row and grounding and grounding.topic else None
    return {"topic": str(topic)} if topic else {}


def _form_digest(bench: Bench, kind: Kind) -> str:
    criteria, overlap = list(bench.project.score.rubric), bench.project.review.overlap
    return argilla.form_digest(kind, criteria=criteria, overlap=overlap, words=project_words(bench, kind))
