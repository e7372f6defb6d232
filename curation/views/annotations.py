"""Rows that people made by changing a text: how they come to be, and whether the person still stands by them.

A person may change a text again, or take the change back. The row that the first change made stays where it is, for rows never change;
what it stands for is read anew from the answers at every decision.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

from argilla_setup import forms
from curation import annotator_agreement as agreeing
from curation import review as argilla
from curation.decide import Annotation, Reason, shown_first
from curation.errors import ProjectError
from curation.records import KINDS, Kind
from curation.review import ArgillaReview
from curation.store import facts, records, reviews
from curation.store.records import Row
from curation.store.reviews import StoredAnswer
from curation.workspace import Workspace


def opinions_by_seq(workspace: Workspace, rows: Mapping[int, Row] | None = None) -> dict[int, list[Annotation]]:
    """The submitted answers on each row; drafts and discards are no opinions.

    Args:
        rows: every row by seq, where they are at hand.
    """
    if rows is None:
        rows = (
            {row.seq: row for kind in KINDS for row in records.list_rows(workspace.db, kind)} if reviews.has_answers(workspace.db) else {}
        )
    out: dict[int, list[Annotation]] = {}
    for answer in reviews.latest_answers(workspace.db):
        if answer.seq in rows:
            given = out.setdefault(answer.seq, [])
            opinion = opinion_of(answer, rows[answer.seq]) if answer.status == "submitted" else None
            if opinion is not None:
                given.append(opinion)
    return {seq: sorted(given, key=attrgetter("user")) for seq, given in out.items()}


def opinion_of(answer: StoredAnswer, row: Row) -> Annotation | None:
    """One person's opinion; None where the question that decides was left open."""
    if row.kind == "preference":
        return _choice_of(answer, row.id)
    verdict = answer.values.get(forms.VERDICT)
    edited = str(answer.values.get(forms.EDITED_COMPLETION) or "").strip()
    if verdict == forms.REJECT:
        return Annotation(answer.user, "reject", simulated=answer.simulated)
    if verdict != forms.APPROVE:
        return None
    if edited == records.ERASED:  # that person changed the text, and the changed text is gone
        return Annotation(answer.user, "edit", None, simulated=answer.simulated)
    if edited and edited != row.answers[0].strip():
        return Annotation(answer.user, "edit", edited, simulated=answer.simulated)
    return Annotation(answer.user, "approve", simulated=answer.simulated)


def _choice_of(answer: StoredAnswer, record_id: str) -> Annotation | None:
    choice, first = answer.values.get(forms.BETTER), shown_first(record_id)
    if choice == forms.BOTH_BAD:
        return Annotation(answer.user, "neither", simulated=answer.simulated)
    if choice == forms.TIE:
        return Annotation(answer.user, "tie", simulated=answer.simulated)
    if choice not in (forms.A, forms.B):
        return None
    index = first if choice == forms.A else 1 - first
    return Annotation(answer.user, "first" if index == 0 else "second", simulated=answer.simulated)


@dataclass(frozen=True)
class Standing:
    """Who stands by a row that an edit made."""

    by: tuple[str, ...] = ()
    taken_back: Reason | None = None
    """Why nobody does any more."""
    contested: bool = False
    """Its maker took it back, but others approved it or a snapshot holds it: a data lead says what goes on."""


def edited_texts(workspace: Workspace, row: Row) -> list[tuple[int, str]]:
    """Return (seq, completion) of every record that an edit of this row made; an edit into a record that was there already counts."""
    responses = {answer.response for answer in reviews.answers_by_seq(workspace.db).get(row.seq, [])}
    made = {seq for seq, response, _ in records.sources_by_seq(workspace.db, "edited") if response in responses}
    rows = (records.load_row(workspace.db, seq)["record"] for seq in sorted(made))
    return [(seq, body["completion"]["content"]) for seq, body in zip(sorted(made), rows, strict=True) if body]


def standings(workspace: Workspace, rows: Mapping[int, Row], opinions: Mapping[int, Sequence[Annotation]]) -> dict[int, Standing]:
    """For each row that an edit made, who stands by it now."""
    edited = records.sources_by_seq(workspace.db, "edited")
    answers = {a.response: a for given in reviews.answers_by_seq(workspace.db).values() for a in given} if edited else {}
    made = [(seq, source) for seq, source, _ in edited if seq in rows and source in answers]
    child_of = {(response, _text(rows[seq])): seq for seq, response in made}
    by, newer = dict[int, list[str]](), dict[int, int | None]()
    for seq, response in made:
        said = _said(answers[response])
        if said == _text(rows[seq]):
            by.setdefault(seq, []).append(answers[response].user)
        else:
            newer[seq] = child_of.get((response, said))
    out = {seq: Standing(tuple(sorted(users))) for seq, users in by.items()}
    return out | {seq: _taken_back(workspace, seq, twin, opinions.get(seq, ())) for seq, twin in newer.items() if seq not in by}


def _taken_back(workspace: Workspace, seq: int, newer: int | None, opinions: Sequence[Annotation]) -> Standing:
    if any(origin["how"] != "edited" and origin["role"] == "row" for origin in records.load_row(workspace.db, seq)["origins"]):
        return Standing()  # it was written or imported as well, and needs no editor
    if any(opinion.says in ("approve", "edit") for opinion in opinions) or seq in facts.splits_by_seq(workspace.db):
        return Standing(contested=True)
    if newer is None:
        return Standing(taken_back=Reason("review", "withdrawn", "the person who wrote this text took the change back"))
    return Standing(taken_back=Reason("review", "edited_again", "the person who wrote this text changed it again", newer))


def _said(answer: StoredAnswer) -> str | None:
    """The text that a response puts in the place of what was shown; None where it does not."""
    if answer.status != "submitted" or answer.values.get(forms.VERDICT) != forms.APPROVE:
        return None
    return str(answer.values.get(forms.EDITED_COMPLETION) or "").strip() or None


def _text(row: Row) -> str | None:
    return row.answers[0] if row.kind == "instruction" else None


def review_counts(workspace: Workspace, kinds: Sequence[Kind] = KINDS) -> dict[str, Any]:
    """How far the review of these kinds is and how well people agree (Krippendorff's alpha, each kind's question by itself)."""
    kind_of = records.kinds_by_seq(workspace.db)
    opinions = {seq: said for seq, said in opinions_by_seq(workspace).items() if said and kind_of[seq] in kinds}
    disputed = facts.seqs_with_verdict(workspace.db, "disputed")
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


def project_words(workspace: Workspace, kind: Kind) -> str:
    """What annotators read first: the brief, the shape that an answer must have, and the project's own guidelines."""
    project = workspace.project
    parts = [f"# The brief\n\n{project.brief.strip()}"]
    if project.records.output_format.strip():
        answer = "completion" if kind == "instruction" else "response"
        parts.append(f"Every {answer} has this shape:\n\n```\n{project.records.output_format.strip()}\n```")
    if project.review.guidelines is not None:
        file = workspace.folder / project.review.guidelines
        if not file.is_file():
            where = f"{workspace.folder / 'project.yaml'}: review.guidelines"
            raise ProjectError(where, f"names {file}, which is not there", "write that file, or set it to null")
        parts.append(file.read_text(encoding="utf-8").strip())
    return "\n\n".join(parts)


def dataset_name(workspace: Workspace, kind: Kind) -> str:
    """Name of the dataset in Argilla."""
    return f"{workspace.project.name}-{kind}"


def _connect(workspace: Workspace) -> ArgillaReview:
    review = workspace.project.review
    return argilla.connect(workspace.folder, argilla=review.argilla, workspace=review.workspace)


def _form_digest(workspace: Workspace, kind: Kind) -> str:
    criteria, overlap = list(workspace.project.score.rubric), workspace.project.review.overlap
    return argilla.form_digest(kind, criteria=criteria, overlap=overlap, words=project_words(workspace, kind))


def published_names(workspace: Workspace) -> dict[str, str]:
    """Return the name of each person who answered as it appears in what leaves the project: a pseudonym, unless the project says `real`."""
    users = reviews.list_annotators(workspace.db)
    if workspace.project.review.names == "real":
        return {user: user for user in users}
    return reviews.alias_annotators(workspace.db, users, simulated=argilla.SIMULATED)
