"""What annotators see and answer, for both kinds of record. The names below are the contract with whoever pushes and pulls.

Only `edited_completion` is ever prefilled. A question that measures the human carries no suggestion: one Enter would turn the judge's
answer into a human's. Scores are metadata that annotators are not shown.

Fields and questions want a client even to be built: call `bootstrap.connect` first.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from argilla_setup.errors import UserError

if TYPE_CHECKING:
    import argilla as rg

Kind = Literal["instruction", "preference"]

PROMPT = "prompt"
COMPLETION = "completion"
RESPONSE_A = "response_a"
RESPONSE_B = "response_b"

VERDICT = "verdict"
APPROVE = "approve"
REJECT = "reject"
EDITED_COMPLETION = "edited_completion"
"""Prefilled by a suggestion with the completion. A submitted text equal to the completion is no edit."""
REASONS = "reasons"
REASON_LABELS = {
    "wrong": "Wrong",
    "incomplete": "Incomplete",
    "unclear": "Unclear",
    "off_brief": "Off the brief",
    "wrong_format": "Wrong format",
    "unsafe": "Unsafe or private",
    "cannot_verify": "Cannot verify",
}
COMMENT = "comment"

BETTER = "better"
A = "A"
B = "B"
TIE = "tie"
BOTH_BAD = "both_bad"

PREFILLED = (EDITED_COMPLETION,)
"""The only questions for which a suggestion may be pushed."""

SCORE_TOTAL = "score_total"
SCORE_PREFIX = "score_"
OPEN_TERMS = ("task", "difficulty")
"""What annotators may filter by, to do one kind of work at a time."""
HIDDEN_TERMS = ("topic", "source")
"""Kept from annotators: a topic taken from a table may name the very class that an answer is judged by, and a source sways."""
TERMS = (*OPEN_TERMS, *HIDDEN_TERMS)
EMBEDDING = "embedding"

LONGEST_GUIDELINES = 10_000
"""Characters; Argilla refuses more."""

_CRITERION = re.compile(r"[a-z0-9][a-z0-9_-]{0,60}")


def score_name(criterion: str) -> str:
    """The metadata property that holds a criterion's score."""
    return f"{SCORE_PREFIX}{criterion}"


def instruction_settings(
    criteria: Sequence[str], *, vector_dimensions: int | None, overlap: int, guidelines: str | None = None, filters: Sequence[str] = ()
) -> rg.Settings:
    """The form for approving, correcting or rejecting one completion.

    Args:
        criteria: names of the judge's criteria; each becomes a hidden metadata property.
        vector_dimensions: size of the vector for find-similar; None for none.
        overlap: how many people answer each record.
        filters: metadata columns of imported rows that annotators may filter by.
        guidelines: the project's own words; they stand above ours, which say how the form works and what is prefilled.
    """
    import argilla as rg

    check_criteria(criteria)
    return rg.Settings(
        guidelines=guidelines_text("instruction", guidelines),
        fields=[rg.TextField(PROMPT, title="Prompt"), rg.TextField(COMPLETION, title="Completion")],
        questions=[
            rg.LabelQuestion(
                VERDICT,
                labels={APPROVE: "Approve", REJECT: "Reject"},
                title="May this be used?",
                description="Approve what you would be glad to see the model answer, with your correction if you make one.",
            ),
            rg.TextQuestion(
                EDITED_COMPLETION,
                title="Edited completion",
                description="Filled in with the completion. Change it only where it should be different.",
                required=False,
            ),
            rg.MultiLabelQuestion(
                REASONS,
                labels=REASON_LABELS,
                title="Reasons",
                description="What is wrong, when you reject.",
                required=False,
                visible_labels=len(REASON_LABELS),
            ),
            _comment_question(),
        ],
        metadata=_metadata(criteria, filters),
        vectors=_vectors(vector_dimensions),
        distribution=rg.TaskDistribution(min_submitted=overlap),
    )


def preference_settings(
    criteria: Sequence[str], *, vector_dimensions: int | None, overlap: int, guidelines: str | None = None, filters: Sequence[str] = ()
) -> rg.Settings:
    """The form for saying which of two responses is better. Arguments as for `instruction_settings`."""
    import argilla as rg

    check_criteria(criteria)
    return rg.Settings(
        guidelines=guidelines_text("preference", guidelines),
        fields=[
            rg.TextField(PROMPT, title="Prompt"),
            rg.TextField(RESPONSE_A, title="Response A"),
            rg.TextField(RESPONSE_B, title="Response B"),
        ],
        questions=[
            rg.LabelQuestion(
                BETTER,
                labels={A: "A is better", B: "B is better", TIE: "Equally good", BOTH_BAD: "Both are bad"},
                title="Which response is better?",
                description="Right before complete, complete before clear, clear before short.",
            ),
            _comment_question(),
        ],
        metadata=_metadata(criteria, filters),
        vectors=_vectors(vector_dimensions),
        distribution=rg.TaskDistribution(min_submitted=overlap),
    )


def guidelines_text(kind: Kind, project: str | None = None) -> str:
    """The words annotators read: the project's own first, then how the form works."""
    shipped = (Path(__file__).parent / "guidelines" / f"{kind}.md").read_text(encoding="utf-8").strip()
    text = "\n\n".join(part for part in ((project or "").strip(), shipped) if part)
    if len(text) > LONGEST_GUIDELINES:
        room = LONGEST_GUIDELINES - len(shipped) - 2
        fact = f"are {len((project or '').strip())} characters long, the brief included"
        raise UserError("the project's guidelines", fact, f"shorten them to {room}")
    return text


def check_criteria(criteria: Sequence[str]) -> None:
    """Criteria become names of metadata properties, for which Argilla has rules."""
    for criterion in criteria:
        if not _CRITERION.fullmatch(criterion) or score_name(criterion) == SCORE_TOTAL or list(criteria).count(criterion) > 1:
            fact = "is no usable name: small letters, digits, - and _, each name once, and not `total`"
            raise UserError(f"criterion {criterion!r}", fact, "rename it in the rubric")


def _comment_question() -> rg.TextQuestion:
    import argilla as rg

    return rg.TextQuestion(COMMENT, title="Comment", description="For whoever settles a disagreement.", required=False)


def filter_name(column: str) -> str:
    """Return the name of the metadata property that holds a column of imported rows; Argilla has rules for such names."""
    return f"column_{re.sub('[^a-z0-9_-]+', '-', column.lower()).strip('-')[:60]}"


def _metadata(criteria: Sequence[str], filters: Sequence[str] = ()) -> list[rg.FloatMetadataProperty | rg.TermsMetadataProperty]:
    import argilla as rg

    scores = [SCORE_TOTAL, *map(score_name, criteria)]
    return [
        *(rg.FloatMetadataProperty(name, title=_title(name), visible_for_annotators=False) for name in scores),
        *(rg.TermsMetadataProperty(name, title=_title(name), visible_for_annotators=name in OPEN_TERMS) for name in TERMS),
        *(rg.TermsMetadataProperty(filter_name(name), title=name, visible_for_annotators=True) for name in filters),
    ]


def _vectors(dimensions: int | None) -> list[rg.VectorField]:
    import argilla as rg

    return [] if dimensions is None else [rg.VectorField(EMBEDDING, dimensions=dimensions)]


def _title(name: str) -> str:
    return name.replace("_", " ").capitalize()
