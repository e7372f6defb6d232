"""What is measured of a model on evaluation items; each metric gives one value an item, so that differences can be paired.

choice                 the right option is likelier than each of its rivals (likelihood, nothing is generated)
preference             the right answer, written out, is likelier than a wrong one
preference_test        chosen likelier than rejected, on the preference snapshot's test split, where it has rows
chapter, exact_code    codes: what the model writes itself, read line by line
valid_code             codes: the share of written codes that exist and may be billed
likelihood             answers: probability a token of the reference answer, geometric mean
exact_answer           answers: what the model writes itself is the reference answer

Of what the model writes itself the number of distinct answers is counted too: a model that answers every question alike can look good.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from training.chat import merge_system
from training.eval_items import EvalItem, extract

Values = dict[str, list[float]]
_CODE, _CHAPTER = re.compile(r"^Code:[ \t]*(\S+)", re.M), re.compile(r"^Chapter:[ \t]*(.+?)[ \t]*$", re.M)
ANSWER_LINES = 3
"""Of a code answer: Code, Description, Chapter; the Reason after them is not read."""


LEAST_DIVERSITY = 0.5
"""Below this ratio of distinct answers to distinct references a difference gets no verdict: 120 phrases that are all answered by one of
12 codes say little, however many of those 12 codes exist."""
MOST_FREQUENT, MOST_OVER_REFERENCE = 0.5, 1.5
"""Nor does it get one where one answer is given to more than half of the items, unless the references repeat about as much."""


@dataclass(frozen=True)
class Diversity:
    """How many different answers a model wrote, beside the references."""

    distinct: int
    references: int
    """Distinct reference answers."""
    most_frequent: float
    """Share of the items that got the most frequent answer, an answer that cannot be read included."""
    most_frequent_reference: float
    items: int

    @property
    def is_low(self) -> bool:
        """Whether the answers are too much alike for a verdict."""
        repeated = max(MOST_FREQUENT, MOST_OVER_REFERENCE * self.most_frequent_reference)
        return self.distinct < LEAST_DIVERSITY * self.references or self.most_frequent > repeated

    def as_dict(self) -> dict[str, Any]:
        return {**asdict(self), "is_low": self.is_low}


class Subject:
    """A loaded model with its tokenizer, and the system message its training rows had."""

    def __init__(self, model: Any, tokenizer: Any, *, system: str | None, batch: int, merge: bool = False) -> None:
        self.model, self.tokenizer, self.batch, self.merge = model, tokenizer, batch, merge
        self.system = [{"role": "system", "content": system}] if system is not None else []

    def ask(self, item: EvalItem) -> list[dict[str, str]]:
        """Return the question as the training rows ask theirs, or as its own conversation has it."""
        messages = list(item.messages) or [*self.system, {"role": "user", "content": item.question}]
        return merge_system(messages) if self.merge else messages


def measure_likelihoods(subject: Subject, items: Sequence[EvalItem]) -> Values:
    """choice, preference and likelihood, as far as the items have what they need."""
    from training.scoring import score_rivals

    values: Values = {}
    asked = [item for item in items if item.options]
    if asked:
        scores = score_rivals(
            subject.model, subject.tokenizer, [subject.ask(i) for i in asked], [i.options for i in asked], batch=subject.batch
        )
        values["choice"] = [float(row.index(max(row)) == item.right) for item, row in zip(asked, scores, strict=True)]
    half = max(1, subject.batch // 2)
    rivals = [(item, item.rivals) for item in items if item.rivals is not None]
    if rivals:
        scores = score_rivals(
            subject.model, subject.tokenizer, [subject.ask(i) for i, _ in rivals], [pair for _, pair in rivals], batch=half
        )
        values["preference"] = [float(right > wrong) for right, wrong in scores]
    plain = [item for item in items if item.rivals is None]
    if plain:
        answers = [(item.answer.rstrip("\n"),) for item in plain]
        scores = score_rivals(subject.model, subject.tokenizer, [subject.ask(i) for i in plain], answers, batch=half, a_token=True)
        values["likelihood"] = [float(score) for (score,) in scores]
    return values


def measure_pairs(subject: Subject, rows: Sequence[Mapping[str, Any]]) -> Values:
    """preference_test: 1 where the chosen completion is likelier than the rejected."""
    from training.scoring import score_rivals

    if not rows:
        return {}
    rivals = [[row["chosen"][0]["content"].rstrip("\n"), row["rejected"][0]["content"].rstrip("\n")] for row in rows]
    scores = score_rivals(subject.model, subject.tokenizer, [row["prompt"] for row in rows], rivals, batch=max(1, subject.batch // 2))
    return {"preference_test": [float(chosen > rejected) for chosen, rejected in scores]}


def write_out(subject: Subject, items: Sequence[EvalItem], *, max_new_tokens: int) -> list[str]:
    """What the model writes itself, greedily; of codes only the lines that are read."""
    from training.scoring import write_answers

    return write_answers(
        subject.model,
        subject.tokenizer,
        [subject.ask(item) for item in items],
        max_new_tokens=max_new_tokens,
        batch=subject.batch * 5,
        stop_lines=ANSWER_LINES if items[0].chapter is not None else None,
    )


def measure_diversity(answers: Sequence[str], items: Sequence[EvalItem], *, pattern: str | None = None) -> dict[str, Diversity]:
    """Return the diversity of what `read_answers` reads, by metric.

    Args:
        answers: what the model wrote.
        items: the evaluation items, in the same order.
        pattern: the run file's `eval.pattern`.
    """
    if items[0].chapter is None:
        return {"exact_answer": _diversity([extract(text, pattern) for text in answers], [extract(i.answer, pattern) for i in items])}
    codes = _diversity([_find(_CODE, text) for text in answers], [item.answer for item in items])
    written = [extract(_find(_CHAPTER, text), None) for text in answers]
    chapters = _diversity(written, [extract(item.chapter or "", None) for item in items])
    return {"chapter": chapters, "exact_code": codes, "valid_code": codes}


def _diversity(written: Sequence[str], references: Sequence[str]) -> Diversity:
    counted, wanted = Counter(written), Counter(references)
    shares = [max(counts.values()) / len(written) for counts in (counted, wanted)]
    return Diversity(len(counted.keys() - {""}), len(wanted), round(shares[0], 4), round(shares[1], 4), len(written))


def _find(line: re.Pattern[str], text: str) -> str:
    return match[1] if (match := line.search(text)) else ""


def read_answers(
    answers: Sequence[str], items: Sequence[EvalItem], *, billable: frozenset[str] | None, pattern: str | None = None
) -> Values:
    """Right or wrong of what the model wrote; an answer without the line, or without the pattern, counts as wrong."""
    pairs = list(zip(answers, items, strict=True))
    if items[0].chapter is None:
        found = [(extract(text, pattern), extract(item.answer, pattern)) for text, item in pairs]
        return {"exact_answer": [float(ours == reference != "") for ours, reference in found]}
    codes, chapters = [_find(_CODE, text) for text in answers], [_find(_CHAPTER, text) for text in answers]
    values = {
        "chapter": [
            float(extract(chapter, None) == extract(item.chapter or "", None)) for chapter, item in zip(chapters, items, strict=True)
        ],
        "exact_code": [float(code == item.answer) for code, item in zip(codes, items, strict=True)],
    }
    return values if billable is None else values | {"valid_code": [float(code in billable) for code in codes]}


def read_billable(table: Path | None) -> frozenset[str] | None:
    """The codes that exist and may be billed; None without a table."""
    if table is None:
        return None
    import pyarrow as pa
    import pyarrow.parquet as pq

    from training.config import TrainingError

    try:
        rows = pq.read_table(table, columns=["code", "billable"], use_threads=False).to_pydict()
    except (pa.ArrowException, OSError, ValueError, KeyError) as error:
        fact = f"{table} cannot be read ({' '.join(str(error).split())})"
        raise TrainingError("eval.table", fact, "name a Parquet file with the columns code and billable") from error
    if not {"code", "billable"} <= set(rows):
        raise TrainingError("eval.table", f"{table} lacks the column code or billable", "name a table that has them")
    return frozenset(code for code, billable in zip(rows["code"], rows["billable"], strict=True) if billable)
