"""Edited rows and their annotators, and the counts of the review.

An annotator may edit a text again, or take the edit back. The row that the first edit made stays, since rows never change; whether
its annotator still supports it is computed from the latest responses at every decision.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from argilla_setup import forms
from curation import annotator_agreement as agreeing
from curation import review as argilla
from curation.decide import Annotation, Reason
from curation.errors import ProjectError
from curation.records import KINDS, Kind
from curation.review import ArgillaReview
from curation.store import records, reviews
from curation.store.records import Row
from curation.store.reviews import StoredAnswer
from curation.views.state import ProjectState
from curation.workspace import Workspace


@dataclass(frozen=True)
class EditStatus:
    """The annotators who support a row that an edit made."""

    by: tuple[str, ...] = ()
    taken_back: Reason | None = None
    """The reason why nobody supports it any more."""
    contested: bool = False
    """Its annotator took it back, but others approved it or a snapshot holds it: a data lead decides."""


@dataclass(frozen=True)
class ReviewCounts:
    """Progress of the review and agreement of the annotators."""

    records: int
    annotations: int
    disputed: int
    agreement: float | None
    """Krippendorff's alpha, computed within each kind's question."""
    estimated_error_rate: float | None
    simulated: bool
    reviewers: tuple[str, ...]

    def as_values(self) -> dict[str, object]:
        """Return plain values for `--json` and the manifest, under the keys that they have always had."""
        return {
            "records": self.records, "opinions": self.annotations, "disputed": self.disputed, "agreement": self.agreement,
            "estimated_error_rate": self.estimated_error_rate, "simulated": self.simulated, "reviewers": list(self.reviewers),
        }  # fmt: skip


def edit_statuses(state: ProjectState) -> dict[int, EditStatus]:
    """Return for each row that an edit made which annotators support it now."""
    edited = records.sources_by_seq(state.db, "edited")
    if not edited:
        return {}
    answers = {answer.response: answer for given in state.answers.values() for answer in given}
    made = [(seq, source) for seq, source, _ in edited if seq in state.row_by_seq and source in answers]
    child_of = {(response, _text(state.row_by_seq[seq])): seq for seq, response in made}
    by, newer = dict[int, list[str]](), dict[int, int | None]()
    for seq, response in made:
        proposed = _proposed_text(answers[response])
        if proposed == _text(state.row_by_seq[seq]):
            by.setdefault(seq, []).append(answers[response].user)
        else:
            newer[seq] = child_of.get((response, proposed))
    unsupported = {seq: twin for seq, twin in newer.items() if seq not in by}
    also_written = records.seqs_not_only_edited(state.db, unsupported) if unsupported else set()
    out = {seq: EditStatus(tuple(sorted(users))) for seq, users in by.items()}
    return out | {seq: _unsupported(state, seq, twin, seq in also_written) for seq, twin in unsupported.items()}


def _unsupported(state: ProjectState, seq: int, newer: int | None, also_written: bool) -> EditStatus:
    if also_written:
        return EditStatus()  # it was generated or imported as well, so it needs no annotator
    if any(annotation.says in ("approve", "edit") for annotation in state.annotations.get(seq, ())) or seq in state.splits:
        return EditStatus(contested=True)
    if newer is None:
        return EditStatus(taken_back=Reason("review", "withdrawn", "the annotator who wrote this text took the edit back"))
    return EditStatus(taken_back=Reason("review", "edited_again", "the annotator who wrote this text edited it again", newer))


def _proposed_text(answer: StoredAnswer) -> str | None:
    """Return the text that a response puts in the place of what was shown; None where it proposes none."""
    if answer.status != "submitted" or answer.values.get(forms.VERDICT) != forms.APPROVE:
        return None
    return str(answer.values.get(forms.EDITED_COMPLETION) or "").strip() or None


def _text(row: Row) -> str | None:
    return row.answers[0] if row.kind == "instruction" else None


def edited_texts(state: ProjectState, row: Row) -> list[tuple[int, str]]:
    """Return (seq, completion) of every record that an edit of this row made, also where the record was there before."""
    responses = {answer.response for answer in state.answers.get(row.seq, [])}
    made = sorted({seq for seq, response, _ in records.sources_by_seq(state.db, "edited") if response in responses})
    return [(seq, state.row_by_seq[seq].answers[0]) for seq in made if seq in state.row_by_seq]


def count_review(state: ProjectState, kinds: Sequence[Kind] = KINDS) -> ReviewCounts:
    """Count the review of these kinds and measure the agreement of the annotators."""
    kind_of = {seq: row.kind for seq, row in state.row_by_seq.items()}
    annotations = {seq: given for seq, given in state.annotations.items() if given and kind_of[seq] in kinds}
    every = [annotation for given in annotations.values() for annotation in given]
    questions: list[list[list[Annotation]]] = [[given for seq, given in annotations.items() if kind_of[seq] == kind] for kind in kinds]
    return ReviewCounts(
        records=len(annotations),
        annotations=len(every),
        disputed=sum(verdict == "disputed" and kind_of.get(seq) in kinds for seq, verdict in state.verdicts.items()),
        agreement=agreeing.agreement_within(questions),
        estimated_error_rate=agreeing.estimate_error_rate(annotations.values()),
        simulated=any(annotation.simulated for annotation in every),
        reviewers=tuple(sorted({annotation.user for annotation in every})),
    )


def count_people(workspace: Workspace, members: Sequence[argilla.Member]) -> int:
    """Return how many people can annotate here or have annotated."""
    return len({member.name for member in members} | set(reviews.list_annotators(workspace.db)))


def published_names(workspace: Workspace) -> dict[str, str]:
    """Return the published name of each annotator: a pseudonym, unless `review.names` is `real`."""
    users = reviews.list_annotators(workspace.db)
    if workspace.project.review.names == "real":
        return {user: user for user in users}
    return reviews.alias_annotators(workspace.db, users, simulated=argilla.SIMULATED)


def project_guidelines(workspace: Workspace, kind: Kind) -> str:
    """Return what annotators read first: the brief, the required format of a response, and the project's own guidelines.

    Raises:
        ProjectError: the file named under `review.guidelines` is missing.
    """
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
    """Return the name of the dataset in Argilla."""
    return f"{workspace.project.name}-{kind}"


def connect(workspace: Workspace) -> ArgillaReview:
    """Connect to the Argilla that project.yaml names."""
    review = workspace.project.review
    return argilla.connect(workspace.folder, argilla=review.argilla, workspace=review.workspace)


def form_digest(workspace: Workspace, kind: Kind) -> str:
    """Return a digest of the form that annotators fill in."""
    criteria, overlap = list(workspace.project.score.rubric), workspace.project.review.overlap
    return argilla.form_digest(kind, criteria=criteria, overlap=overlap, words=project_guidelines(workspace, kind))
