"""Simulated annotators: what one answers about a row, from what it sees and the code table, with mistakes, corrections and quarrels at
stated rates. Answers are functions of the row, the name and the seed. They stand in for people in the demo and the tests only, and each
answer says so.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from argilla_setup import forms
from curation.simulation.code_table import Codes, squeezed
from curation.simulation.defects import chance, fraction
from curation.simulation.judge import RECKLESS
from curation.simulation.request_parser import answer_fields

TRUTH_FILE = "review-truth.jsonl"
"""In the log folder: a line for each answer, with the error put in, if any."""
SAYS_SO = "Simulated annotator (offline stand-in), not a person."
"""Stands in the comment of every answer."""


@dataclass(frozen=True)
class ReviewRates:
    """How often a simulated annotator errs."""

    wrong_approval: float = 0.1
    """Share of the rows it should reject that it approves; of the pairs, share in which it picks the worse answer."""
    wrong_rejection: float = 0.03
    """Share of the rows it should approve that it rejects; of the pairs, share it calls equally good."""
    edit: float = 0.08
    """Share of its approvals that come with a corrected completion."""
    quarrel: float = 0.05
    """Share of the rows on which each annotator goes by its own taste; on about half of these two of them disagree."""


@dataclass(frozen=True)
class Answered:
    """An answer and the truth about it."""

    values: dict[str, Any]
    """Question to value, as Argilla takes them."""
    truth: dict[str, Any]
    """What a careful annotator would have said, what was said, and which error was put in, if any."""


def answer_instruction(row: Mapping[str, str], *, name: str, seed: int, rates: ReviewRates, codes: Codes) -> Answered:
    """Approve or reject one completion. ROW has id, prompt and completion as the form shows them."""
    key = (seed, name, row["id"])
    reasons = find_faults(row["prompt"], row["completion"], codes)
    honest = forms.REJECT if reasons else forms.APPROVE
    given, error = _err(honest, key, row["id"], rates)
    values: dict[str, Any] = {forms.VERDICT: given, forms.COMMENT: SAYS_SO}
    if given == forms.REJECT:
        values[forms.REASONS] = list(reasons) or ["cannot_verify" if fraction(*key, "why") < 0.5 else "unclear"]
    edited = given == forms.APPROVE and error is None and chance(rates.edit, *key, "edit")
    values[forms.EDITED_COMPLETION] = _edit(row["completion"], random.Random(repr(key))) if edited else row["completion"]
    changed = values[forms.EDITED_COMPLETION] != row["completion"]
    return Answered(values, _truth(row, name, "instruction", honest, given, error) | {"edited": changed})


def answer_preference(row: Mapping[str, str], *, name: str, seed: int, rates: ReviewRates, codes: Codes) -> Answered:
    """Say which response is better. ROW has id, prompt, response_a and response_b as the form shows them."""
    key = (seed, name, row["id"])
    honest = _better(row, codes, key)
    given, error = honest, None
    if chance(rates.quarrel, seed, row["id"], "quarrel"):
        given = forms.A if fraction(*key, "taste") < 0.5 else forms.B
        error = "quarrel" if given != honest else None
    elif chance(rates.wrong_approval, *key, "wrong"):
        given, error = (forms.B if honest == forms.A else forms.A), "wrong_approval"
    elif chance(rates.wrong_rejection, *key, "tie") and honest in (forms.A, forms.B):
        given, error = forms.TIE, "wrong_rejection"
    values = {forms.BETTER: given, forms.COMMENT: SAYS_SO}
    return Answered(values, _truth(row, name, "preference", honest, given, error))


def true_error_rates(log: Path) -> dict[str, float | None]:
    """How often the simulated annotators of a log folder really erred; None where there was no occasion.

    `wrong_approvals` of the completions that should be rejected, `wrong_rejections` of those that should be approved,
    `errors` of all answers of both kinds.
    """
    path = log / TRUTH_FILE
    truths = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.is_file() else []

    def share(of: Callable[[dict[str, Any]], bool]) -> float | None:
        told = [truth["given"] != truth["honest"] for truth in truths if of(truth)]
        return sum(told) / len(told) if told else None

    return {
        "wrong_approvals": share(lambda t: t["kind"] == "instruction" and t["honest"] == forms.REJECT),
        "wrong_rejections": share(lambda t: t["kind"] == "instruction" and t["honest"] == forms.APPROVE),
        "errors": share(lambda t: True),
    }


def find_faults(prompt: str, completion: str, codes: Codes) -> tuple[str, ...]:
    """What a careful annotator finds wrong with a completion, as the form's reasons; empty when nothing is."""
    fields, text = answer_fields(completion), _user_text(prompt)
    if not codes.rows:
        if RECKLESS.search(completion):
            return ("wrong",)
        shared = set(squeezed(text).split()) & set(squeezed(completion).split())
        return () if any(len(word) > 4 for word in shared) else ("off_brief",)
    if list(fields) != ["code", "description", "chapter", "reason"]:
        return ("off_brief",) if not fields and len(set(squeezed(text).split()) & codes.words) < 2 else ("wrong_format",)
    row = codes.rows.get(fields["code"])
    if row is None or not row["billable"]:
        return ("wrong",)
    told = all(squeezed(fields[column]) == squeezed(row[column]) for column in ("description", "chapter"))
    own = closeness(text, fields["code"], codes)
    nearest = max((closeness(text, other["code"], codes) for other in codes.siblings(fields["code"])), default=0.0)
    return () if told and own >= 0.2 and nearest - own < 0.3 else ("wrong",)


def closeness(text: str, code: str, codes: Codes) -> float:
    """How much of the best fitting name of a code stands in a text, 0 to 1; word beginnings count, so that endings do not."""
    said = {word[:5] for word in squeezed(text).split()}

    def share(name: str) -> float:
        words = [w for w in squeezed(name).split() if w not in _EMPTY] or squeezed(name).split()
        return sum(word[:5] in said for word in words) / max(1, len(words))

    return max((share(name) for name in codes.names(code)), default=0.0)


_EMPTY = frozenset(
    {"of", "the", "and", "with", "in", "to", "due", "or", "unspecified", "nos", "a", "other", "not", "elsewhere", "classified"}
)


def _better(row: Mapping[str, str], codes: Codes, key: tuple[Any, ...]) -> str:
    texts = {forms.A: row["response_a"], forms.B: row["response_b"]}
    if codes.rows:
        bad = {letter: bool(set(find_faults(row["prompt"], text, codes)) - {"wrong"}) for letter, text in texts.items()}
        if all(bad.values()):
            return forms.BOTH_BAD
        text = _user_text(row["prompt"])
        fits = {letter: closeness(text, answer_fields(said).get("code", ""), codes) for letter, said in texts.items()}
        if fits[forms.A] != fits[forms.B]:
            return max(fits, key=lambda letter: fits[letter])
    else:
        faults = {letter: len(find_faults(row["prompt"], text, codes)) for letter, text in texts.items()}
        if faults[forms.A] != faults[forms.B]:
            return min(faults, key=lambda letter: faults[letter])
    # Nothing to tell them apart by: the same answer whichever letter it bears, so that two annotators mostly agree.
    return min(texts, key=lambda letter: fraction(key[0], texts[letter]))


def _err(honest: str, key: tuple[Any, ...], id_: str, rates: ReviewRates) -> tuple[str, str | None]:
    """The verdict given, and the error put in."""
    if chance(rates.quarrel, key[0], id_, "quarrel"):
        given = forms.APPROVE if fraction(*key, "taste") < 0.5 else forms.REJECT
        return given, "quarrel" if given != honest else None
    if honest == forms.REJECT and chance(rates.wrong_approval, *key, "wrong"):
        return forms.APPROVE, "wrong_approval"
    if honest == forms.APPROVE and chance(rates.wrong_rejection, *key, "wrong"):
        return forms.REJECT, "wrong_rejection"
    return honest, None


def _edit(completion: str, random_: random.Random) -> str:
    """A correction people make: the reason put more plainly; a row without one gets its ending tidied."""
    quoted = re.search(r"(?m)^Reason: .*?“([^”]+)”.*$", completion)
    if quoted:
        cite = quoted.group(1)
        reason = random_.choice(
            (f"The words “{cite}” decide.", f"“{cite}” is what was documented.", f"Coded from “{cite}”.", f"“{cite}” names this condition.")
        )
        return completion.replace(quoted.group(0), f"Reason: {reason}")
    tidy = completion.rstrip()
    return f"{tidy} {random_.choice(('Checked.', 'Confirmed.'))}" if tidy.endswith(".") else f"{tidy}."


def _truth(row: Mapping[str, str], name: str, kind: str, honest: str, given: str, error: str | None) -> dict[str, Any]:
    return {"record_id": row["id"], "annotator": name, "kind": kind, "honest": honest, "given": given, "error": error}


def _user_text(prompt: str) -> str:
    """The user's turn of a prompt as the form shows it: a standing instruction stands before it."""
    return re.sub(r"\AStanding instruction: [^\n]+\n\n", "", prompt)
