"""Pull annotations from Argilla, make a record of every edit, and decide again."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from argilla_setup import forms
from curation import review as argilla
from curation.answer_checks import find_slips
from curation.config.project import settings_digest
from curation.decide import shown_first
from curation.errors import RowError, command
from curation.patterns import compile_pattern
from curation.quality.policy import resolve
from curation.records import KINDS, InstructionRecord, Kind, Record, make_pair, parse_record, record_id
from curation.report.notices import describe_alpha
from curation.review import ArgillaReview, Dataset, HeldResponse, read_records
from curation.stages.verdicts import update_verdicts
from curation.store import facts, records, reviews, runs
from curation.store.records import Origin, Row
from curation.store.reviews import Place, StoredAnswer
from curation.views.annotations import connect, count_people, count_review, dataset_name, form_digest, settle_name, settle_review
from curation.views.annotators import QUESTIONS
from curation.views.decisions import decide_all
from curation.views.next_step import next_step
from curation.views.runs import PeopleDetail
from curation.views.state import ProjectState
from curation.workspace import StageResult, Workspace, open_workspace


def add_edits(workspace: Workspace, run: int) -> int:
    """Add a record for each text that an annotator edited, and one more each time it is edited again; return how many are new.

    The origin of an edited record names the response and the row it was made from.
    """
    state = ProjectState(workspace)
    rows, identities = state.row_by_seq, records.ids_of(workspace.db)
    made, known = list[tuple[Record, Origin]](), dict[str, set[str]]()
    for seq, response, _ in records.sources_by_seq(workspace.db, "edited"):
        known.setdefault(response, set()).add(identities[seq])
    for seq, given in state.all_annotations.items():
        # Under a majority an edit is one vote; its text becomes a row once the votes are counted.
        is_open = resolve(given, state.policy, stratum=rows[seq].kind).outcome == "partial"
        for annotation in given:
            if annotation.says != "edit" or annotation.edited is None or is_open:
                continue
            # The verdict on a control row is known, so nobody's edit takes its place.
            if seq in state.control_file.verdicts:
                continue
            stored = state.stored_rulings if annotation.ruling else state.answers
            row, answer = rows[seq], next(a for a in stored[seq] if a.user == annotation.user)
            child, better = (
                (_edited(workspace, row, annotation.edited), None)
                if row.kind == "instruction"
                else _corrected(row, annotation.edited, answer.values[forms.BETTER])
            )
            earlier = known.get(answer.response, set())
            if child is not None and record_id(child) not in earlier:
                origin = Origin(
                    "edited", answer.response, len(earlier), cell=row.cell, better=better, parent=seq, seed_group=row.seed_group
                )
                made.append((child, origin))
    if made and workspace.project.score.rubric:
        # An edit of a row below the cut would be a row without a score, which could leave in a snapshot only because people were shown
        # the row to calibrate the judge.
        below = frozenset().union(*(sides.below for sides in decide_all(state).scored.values()))
        made = [one for one in made if one[1].parent not in below]
    return records.add_records(workspace.db, made, run)[1]


def _corrected(row: Row, text: str, choice: str) -> tuple[Record | None, int | None]:
    """Return the pair of a corrected response and the response that it is better than, and the corrected one's index."""
    other = row.answers[1 - shown_first(row.id) if choice == forms.A else shown_first(row.id)]
    try:
        return make_pair(row.record.prompt, text, other)
    except RowError:
        return None, None


def _edited(workspace: Workspace, row: Row, text: str) -> InstructionRecord | None:
    pattern = workspace.project.records.label_pattern
    found = compile_pattern(pattern, multiline=False).search(text) if pattern else None
    value = json.loads(row.record.model_dump_json())
    value["completion"]["content"], value["label"] = text, found.group(1) if found else value["label"] if not pattern else None
    try:
        record = parse_record(value)
    except RowError:
        return None
    return record if isinstance(record, InstructionRecord) else None


def pull(folder: Path) -> StageResult:
    """Pull annotations from Argilla, make a record of every edit, and decide again."""
    with open_workspace(folder) as workspace:
        with runs.record_run(workspace.db, "pull", settings_digest(workspace.project.review)) as run:
            review = connect(workspace)
            new, missing, notes, is_changed, renamed = 0, set[int](), list[str](), False, dict[str, str]()
            for kind in KINDS:
                dataset = argilla.find_dataset(review, dataset_name(workspace, kind))
                if dataset is None:
                    missing |= reviews.reconcile_pushed(workspace.db, Place(review.url, "", dataset_name(workspace, kind)), ())
                    continue
                overlap = workspace.project.review.overlap_of(kind)
                if (before := argilla.follow_overlap(review, dataset, overlap)) is not None:
                    is_changed = True
                    notes.append(f"Argilla now asks {overlap} people for each {kind} row instead of {before}.")
                answers, found = _read_answers(workspace, review, kind, dataset, renamed)
                missing |= reviews.reconcile_pushed(workspace.db, Place(review.url, dataset.id, dataset.name), found)
                run.rows_in += len(answers)
                new += reviews.add_answers(workspace.db, answers, run.number)
                for closed in argilla.closed_datasets(review, dataset.name):  # somebody may have had its page open
                    new += reviews.add_answers(workspace.db, _read_answers(workspace, review, kind, closed, renamed)[0], run.number)
            rulings = _pull_rulings(workspace, review, run.number, renamed, notes)
            run.rows_in += rulings.fetched
            new += rulings.new
            edits = add_edits(workspace, run.number)
            run.rows_out = new
            people = count_people(workspace, argilla.list_members(review))
            run.detail = PeopleDetail.model_validate({"new": new, "edits": edits, "people": people}).dump()
        runs.forget_earlier(workspace.db, "pull", than=run.number, idle=True)
        # `curate serve` pulls every minute; it computes nothing while nobody answers.
        is_changed |= bool(renamed)
        notes += [_describe_rename(workspace, former, name) for former, name in renamed.items()]
        is_changed |= edits > 0  # also of an answer that was pulled before its row passed
        # A pull that was killed after it had stored answers or edits left them undecided, and this one finds nothing new.
        is_old = is_changed or runs.latest_numbers(workspace.db).get("decide", 0) < reviews.latest_stored_run(workspace.db)
        verdicts = update_verdicts(workspace).counts if is_old else dict(facts.verdict_counts(workspace.db))
        state = ProjectState(workspace)
        review_counts, slips = count_review(state), find_slips(state.submitted)
        counts = {"answers": run.rows_in, "new": new, "edited_records": edits, **review_counts.as_values(), "verdicts": verdicts}
        waiting = facts.seqs_with_verdict(workspace.db, "to_review") | facts.seqs_with_verdict(workspace.db, "in_review")
        counts["missing"] = len(missing & waiting)
        counts |= {"rulings": rulings.new} if workspace.project.review.adjudicators else {}
        headline = f"{run.rows_in:,} annotations fetched, {new:,} new" + (f"; {edits:,} edited texts became new rows" if edits else "")
        if review_counts.records:
            disputed = f"; {review_counts.disputed:,} rows are disputed" if review_counts.disputed else ""
            notes.append(f"Reviewed so far: {review_counts.records:,} rows, {review_counts.annotations:,} annotations{disputed}.")
        if counted := facts.verdict_counts(workspace.db).most_common():
            notes.append("Verdicts: " + ", ".join(f"{n:,} {name.replace('_', ' ')}" for name, n in counted) + ".")
        quality = review_counts.quality
        deciding = [one for one in quality.agreements if one.question in QUESTIONS.values()]
        for one in deciding:
            rest = one.sentence.removeprefix(one.question)
            notes.append(f"Agreement on “{one.question}”{rest}{f'; {describe_alpha(one.alpha.value)}' if one.alpha else ''}.")
        notes += [*state.control_file.notes, *quality.warnings]
        own = Counter(ruling.user for given in state.own_rulings.values() for ruling in given)
        notes += [f"{user} settled {n:,} disputed rows that {user} had annotated. These rulings do not count." for user, n in own.items()]
        if slips:
            ids = records.ids_of(workspace.db)
            notes += [slip.describe(ids) for slip in slips]
        if counts["disputed"]:
            notes.append(
                f"Disputed rows wait for an adjudicator, for an answer to be changed, or for `curate keep`: {counts['disputed']:,}."
                f" {command('curate', 'disputes', folder)} lists them."
            )
        if counts["missing"]:
            notes.append(
                f"Rows in review that Argilla at {review.url} does not hold: {counts['missing']:,}. `curate push` sends them again."
            )
        notes.append(f"Next: {next_step(workspace)}")
        return StageResult("pull", run.rows_in, run.rows_out, counts, notes, headline=headline)


@dataclass(frozen=True)
class PulledRulings:
    """Answers of adjudicators."""

    fetched: int = 0
    new: int = 0


def _describe_rename(workspace: Workspace, former: str, name: str) -> str:
    settings = workspace.project.review
    listed = [key for key in ("annotators", "adjudicators", "exclude") if former in getattr(settings, key)]
    todo = f" Next: write {name} for {former} under review.{' and review.'.join(listed)}." if listed else ""
    return f"{former} is called {name} in Argilla now. The answers under both names are one person's.{todo}"


def _pull_rulings(workspace: Workspace, review: ArgillaReview, run: int, renamed: dict[str, str], notes: list[str]) -> PulledRulings:
    """Fetch the adjudicators' answers. Those of other people who can see the datasets, such as the owner, are named and not stored."""
    settle, db = settle_review(review), workspace.db
    names = reviews.present_names(db, workspace.project.review.adjudicators)
    if not names and not reviews.settle_seqs(db):
        return PulledRulings()
    fetched = new = 0
    uncounted = Counter[str]()
    for kind in KINDS:
        name = settle_name(workspace, kind)
        dataset = argilla.find_dataset(settle, name)
        if dataset is None:
            reviews.reconcile_pushed(db, Place(review.url, "", name), ())
            continue
        for place in (dataset, *argilla.closed_datasets(settle, name)):
            answers, found = _read_answers(workspace, settle, kind, place, renamed, settles=True)
            names, stored = reviews.present_names(db, names), reviews.answers_by_person(db, "rulings")
            if place is dataset:
                reviews.reconcile_pushed(db, Place(review.url, dataset.id, name), found)
            counted = [answer for answer in answers if answer.user in names]
            others = (a.user for a in answers if a.user not in names and a.status == "submitted" and (a.seq, a.user) not in stored)
            uncounted.update(others)
            fetched += len(counted)
            new += reviews.add_answers(db, counted, run, "rulings")
    notes += [f"{user} is not under review.adjudicators: {n:,} answers to disputed rows do not count." for user, n in uncounted.items()]
    return PulledRulings(fetched, new)


def _read_answers(
    workspace: Workspace, review: ArgillaReview, kind: Kind, dataset: Dataset, renamed: dict[str, str], *, settles: bool = False
) -> tuple[list[StoredAnswer], set[int]]:
    """Return the answers in a dataset that are not stored yet, and the records that it holds.

    A person has one answer to a record. It keeps the response id under which it was first seen, also where the record was sent again and
    Argilla gave the restored response a new id.

    Args:
        workspace: the open workspace.
        review: the connection to Argilla.
        kind: of the rows.
        dataset: to read.
        renamed: gets the present name of each account that was renamed since the last pull, by the former name.
        settles: the answers are those of adjudicators.
    """
    seqs = {identity: seq for seq, identity in records.ids_of(workspace.db).items()}
    place = Place(review.url, dataset.id, dataset.name)
    payloads, form = reviews.shown_payloads(workspace.db, place), form_digest(workspace, kind, settles=settles)
    table: reviews.Table = "rulings" if settles else "answers"
    by_response = reviews.users_by_response(workspace.db, table)
    records_held = list(read_records(review, dataset, responses=True))
    given_by = {given.account: given for held in records_held for given in held.responses if given.account}
    earlier = {
        given.account: by_response[given.response] for held in records_held for given in held.responses if given.response in by_response
    }
    renamed |= reviews.follow_accounts(workspace.db, {account: given.user for account, given in given_by.items()}, earlier)
    stored = reviews.answers_by_person(workspace.db, table)
    answers, found = list[StoredAnswer](), set[int]()
    for held in records_held:
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
    return answers, found


def _says_the_same(before: StoredAnswer, given: HeldResponse) -> bool:
    """Return whether a response under another id is the stored answer, restored by push.

    A form that does not accept a submitted answer holds the part that it knows as a draft; the answer still counts.
    """
    said = [{name: value for name, value in values.items() if value is not None} for values in (before.values, given.values)]
    if before.status == given.status:
        return said[0] == said[1]
    return (before.status, given.status) == ("submitted", "draft") and all(_is_part(v, said[0].get(name)) for name, v in said[1].items())


def _is_part(value: Any, whole: Any) -> bool:
    return set(value) <= set(whole) if isinstance(value, list) and isinstance(whole, list) else bool(value == whole)
