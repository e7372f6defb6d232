"""Simulated annotators: their answers about a row, with errors, corrections and disagreements at fixed rates.

The code table is their knowledge. Answers depend on the row, the annotator's name and the seed alone. They replace people in the demo
and the tests only, and each answer says so.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from argilla_setup import forms
from curation.simulation.code_table import CodeTable, normalize
from curation.simulation.defects import chance, fraction
from curation.simulation.judge import CARELESS
from curation.simulation.request_parser import answer_fields
from curation.simulation.vocabulary import VOCABULARY

TRUTH_FILE = "review-truth.jsonl"
"""File of the log folder with a line per answer and its planted error, if any."""
DISCLOSURE = "Simulated annotator (offline stand-in), not a person."
"""Comment of every answer."""


@dataclass(frozen=True)
class ReviewRates:
    """Error rates of a simulated annotator."""

    wrong_approval: float = 0.1
    """Share of the rows to reject that it approves; of the pairs, share in which it picks the worse answer."""
    wrong_rejection: float = 0.03
    """Share of the rows to approve that it rejects; of the pairs, share that it calls equally good."""
    edit: float = 0.08
    """Share of its approvals that come with a corrected completion."""
    quarrel: float = 0.05
    """Share of the rows on which each annotator answers at random; on about half of these two of them disagree."""


Error = Literal["wrong_approval", "wrong_rejection", "quarrel"] | None


class ReviewTruth(BaseModel):
    """A line of TRUTH_FILE: the truth about one answer."""

    model_config = ConfigDict(frozen=True)

    record_id: str
    annotator: str
    kind: Literal["instruction", "preference"]
    honest: str
    """Verdict of a careful annotator."""
    given: str
    """Verdict that was submitted."""
    error: Error
    """The planted error, if any."""
    edited: bool = False
    """True if the answer came with a corrected completion."""
    dataset: str = ""
    """Name of the Argilla dataset."""


@dataclass(frozen=True)
class Answer:
    """An answer and the truth about it."""

    values: dict[str, Any]
    """Question to value, as Argilla takes them."""
    truth: ReviewTruth


@dataclass(frozen=True)
class Annotator:
    """One simulated annotator."""

    name: str
    seed: int
    rates: ReviewRates
    codes: CodeTable

    def answer(self, row: Mapping[str, str]) -> Answer:
        """Answer a record. The row has `id` and the fields of its form: prompt and completion, or prompt and two responses."""
        return self._answer_instruction(row) if forms.COMPLETION in row else self._answer_preference(row)

    def _answer_instruction(self, row: Mapping[str, str]) -> Answer:
        key, rates = (self.seed, self.name, row["id"]), self.rates
        faults = find_faults(row["prompt"], row["completion"], self.codes)
        given = honest = forms.REJECT if faults else forms.APPROVE
        error: Error = None
        if chance(rates.quarrel, self.seed, row["id"], "quarrel"):
            given = forms.APPROVE if fraction(*key, "taste") < 0.5 else forms.REJECT
            error = "quarrel" if given != honest else None
        elif honest == forms.REJECT and chance(rates.wrong_approval, *key, "wrong"):
            given, error = forms.APPROVE, "wrong_approval"
        elif honest == forms.APPROVE and chance(rates.wrong_rejection, *key, "wrong"):
            given, error = forms.REJECT, "wrong_rejection"
        values: dict[str, Any] = {forms.VERDICT: given, forms.COMMENT: DISCLOSURE}
        if given == forms.REJECT:
            values[forms.REASONS] = list(faults) or ["cannot_verify" if fraction(*key, "why") < 0.5 else "unclear"]
        edits = given == forms.APPROVE and error is None and chance(rates.edit, *key, "edit")
        completion = _edit(row["completion"], random.Random(repr(key))) if edits else row["completion"]
        values[forms.EDITED_COMPLETION] = completion
        is_edited = completion != row["completion"]
        truth = ReviewTruth(
            record_id=row["id"], annotator=self.name, kind="instruction", honest=honest, given=given, error=error, edited=is_edited
        )
        return Answer(values, truth)

    def _answer_preference(self, row: Mapping[str, str]) -> Answer:
        key, rates = (self.seed, self.name, row["id"]), self.rates
        given = honest = self._find_better(row)
        error: Error = None
        if chance(rates.quarrel, self.seed, row["id"], "quarrel"):
            given = forms.A if fraction(*key, "taste") < 0.5 else forms.B
            error = "quarrel" if given != honest else None
        elif chance(rates.wrong_approval, *key, "wrong"):
            given, error = (forms.B if honest == forms.A else forms.A), "wrong_approval"
        elif chance(rates.wrong_rejection, *key, "tie") and honest in (forms.A, forms.B):
            given, error = forms.TIE, "wrong_rejection"
        truth = ReviewTruth(record_id=row["id"], annotator=self.name, kind="preference", honest=honest, given=given, error=error)
        return Answer({forms.BETTER: given, forms.COMMENT: DISCLOSURE}, truth)

    def _find_better(self, row: Mapping[str, str]) -> str:
        texts = {forms.A: row["response_a"], forms.B: row["response_b"]}
        faults = {letter: find_faults(row["prompt"], text, self.codes) for letter, text in texts.items()}
        if not self.codes.rows:
            if len(faults[forms.A]) != len(faults[forms.B]):
                return min(faults, key=lambda letter: len(faults[letter]))
        elif all(set(found) - {"wrong"} for found in faults.values()):
            return forms.BOTH_BAD
        else:
            prompt = _user_text(row["prompt"])
            fit = {letter: closeness(prompt, answer_fields(text).get("code", ""), self.codes) for letter, text in texts.items()}
            if fit[forms.A] != fit[forms.B]:
                return max(fit, key=lambda letter: fit[letter])
        # No difference found: choose by text, not by letter, so that two annotators usually agree.
        return min(texts, key=lambda letter: fraction(self.seed, texts[letter]))


def find_faults(prompt: str, completion: str, codes: CodeTable) -> tuple[str, ...]:
    """Return what a careful annotator finds wrong with a completion, as reasons of the review form.

    Args:
        prompt: prompt as the form shows it.
        completion: text to check.
        codes: code table; an empty one leaves only general checks.

    Returns:
        An empty tuple if nothing is wrong.
    """
    fields, text = answer_fields(completion), _user_text(prompt)
    if not codes.rows:
        if CARELESS.search(completion):
            return ("wrong",)
        shared = set(normalize(text).split()) & set(normalize(completion).split())
        return () if any(len(word) > 4 for word in shared) else ("off_brief",)
    if list(fields) != ["code", "description", "chapter", "reason"]:
        return ("off_brief",) if not fields and len(set(normalize(text).split()) & codes.words) < 2 else ("wrong_format",)
    row = codes.rows.get(fields["code"])
    if row is None or not row["billable"]:
        return ("wrong",)
    is_quoted = all(normalize(fields[column]) == normalize(row[column]) for column in ("description", "chapter"))
    own = closeness(text, fields["code"], codes)
    # A text that fits a sibling much better was given the wrong code; similar fits are a matter of opinion.
    nearest = max((closeness(text, other["code"], codes) for other in codes.siblings(fields["code"])), default=0.0)
    return () if is_quoted and own >= 0.2 and nearest - own < 0.3 else ("wrong",)


def closeness(text: str, code: str, codes: CodeTable) -> float:
    """Return how much of the best matching name of a code a text contains.

    Args:
        text: text to search.
        code: code whose names are compared.
        codes: code table.

    Returns:
        A share in [0, 1]. Words count as equal if their first five letters are, so that endings do not matter.
    """
    stems = {word[:5] for word in normalize(text).split()}
    shares = [0.0]
    for name in codes.names(code):
        words = [w for w in normalize(name).split() if w not in VOCABULARY.name_stop_words] or normalize(name).split()
        shares.append(sum(word[:5] in stems for word in words) / max(1, len(words)))
    return max(shares)


def true_error_rates(log: Path) -> dict[str, float | None]:
    """Return the true error rates of the simulated annotators of a log folder; None where a rate has no cases.

    `wrong_approvals` of the completions to reject, `wrong_rejections` of those to approve, `errors` of all answers of both kinds.
    """
    path = log / TRUTH_FILE
    lines = path.read_text(encoding="utf-8").split("\n")[:-1] if path.is_file() else []
    truths = list(map(ReviewTruth.model_validate_json, lines))

    def error_rate(belongs: Callable[[ReviewTruth], bool]) -> float | None:
        errors = [truth.given != truth.honest for truth in truths if belongs(truth)]
        return sum(errors) / len(errors) if errors else None

    return {
        "wrong_approvals": error_rate(lambda t: t.kind == "instruction" and t.honest == forms.REJECT),
        "wrong_rejections": error_rate(lambda t: t.kind == "instruction" and t.honest == forms.APPROVE),
        "errors": error_rate(lambda t: True),
    }


def _edit(completion: str, rng: random.Random) -> str:
    """Return a correction as people make it: a plainer reason, or a tidied ending where the answer has no reason."""
    quoted = re.search(r"(?m)^Reason: .*?“([^”]+)”.*$", completion)
    if quoted:
        cite = quoted.group(1)
        reason = rng.choice(
            (f"The words “{cite}” decide.", f"“{cite}” is what was documented.", f"Coded from “{cite}”.", f"“{cite}” names this condition.")
        )
        return completion.replace(quoted.group(0), f"Reason: {reason}")
    tidy = completion.rstrip()
    return f"{tidy} {rng.choice(('Checked.', 'Confirmed.'))}" if tidy.endswith(".") else f"{tidy}."


def _user_text(prompt: str) -> str:
    """Return the user's turn of a prompt; the form shows the system message before it."""
    return re.sub(r"\AStanding instruction: [^\n]+\n\n", "", prompt)
