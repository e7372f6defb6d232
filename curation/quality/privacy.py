"""Count PII and secrets in rows that leave, and mask them in a record.

The detectors are in `curation.distribution.pii`. A mask is the kind in brackets, such as `[EMAIL]`, so that a masked text holds no part of
the value.
"""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from curation.distribution.pii import DEFAULT, PiiSearch, as_placeholders, find_spans, kind_of, replace_spans, spans_of
from curation.records import InstructionRecord, Message, PairRecord, Record, make_pair, parse_record

_BATCH = 20_000


@dataclass(frozen=True)
class PiiCounts:
    """PII and secrets in a set of rows."""

    rows: int
    """Rows that were searched."""
    rows_with: int
    """Rows with at least one finding."""
    by_kind: Mapping[str, int]
    """Number of findings of each kind."""

    @property
    def sentence(self) -> str:
        """The counts as a sentence."""
        if not self.rows_with:
            return f"No PII or secret was found in {self.rows:,} rows."
        kinds = ", ".join(f"{kind} {n:,}" for kind, n in sorted(self.by_kind.items(), key=lambda item: (-item[1], item[0])))
        return f"PII or secrets were found in {self.rows_with:,} of {self.rows:,} rows: {kinds}."


def count_pii(rows: Iterable[Sequence[str]], search: PiiSearch = DEFAULT) -> PiiCounts:
    """Count the findings in rows, of which each is given as its texts."""
    total = with_any = 0
    kinds = Counter[str]()
    following = iter(rows)
    while batch := list(itertools.islice(following, _BATCH)):
        owners = [n for n, texts in enumerate(batch) for _ in texts]
        found = find_spans([text for texts in batch for text in texts], search)
        total, with_any = total + len(batch), with_any + len({owners[place] for place in found})
        kinds.update(kind_of(span) for spans in found.values() for span in spans)
    return PiiCounts(total, with_any, dict(kinds))


def texts_of(record: Record) -> tuple[str, ...]:
    """Return every text of a record that leaves with it: the turns, system message included, the responses, and the label."""
    if isinstance(record, InstructionRecord):
        return (*(turn.content for turn in record.prompt), record.completion.content, record.label or "")
    return (*(turn.content for turn in record.prompt), *(answer.content for answer in record.completions))


def mask_record(record: Record, better: int | None, search: PiiSearch) -> tuple[Record, int | None]:
    """Return the record with placeholders for its PII, and the index of the better response of a pair.

    Args:
        record: with at least one finding.
        better: canonical index of the better response of a pair, which masking may change; None where it is not known.
        search: the kinds and countries to mask.

    Raises:
        RowError: a pair's responses are equal once they are masked.
        ValueError: the label holds PII, or the response is JSON and would be none; the message says which.
    """

    def masked(text: str) -> str:
        return replace_spans(text, as_placeholders(spans_of(text, search)))

    turns = tuple(Message(role=turn.role, content=masked(turn.content)) for turn in record.prompt)
    if isinstance(record, PairRecord):
        first = better or 0
        answers = [masked(answer.content) for answer in record.completions]
        made, place = make_pair(turns, answers[first], answers[1 - first])
        return made, place if better is not None else None
    if record.label is not None and spans_of(record.label, search):
        raise ValueError("the label holds it")
    answer = masked(record.completion.content)
    if is_json(record.completion.content) and not is_json(answer):
        raise ValueError("the response would no longer be JSON")
    values = record.model_dump(mode="json")
    values["prompt"] = [turn.model_dump(mode="json") for turn in turns]
    values["completion"]["content"] = answer
    return parse_record(values), None


def is_json(text: str) -> bool:
    """Return whether a text is a JSON object or list."""
    if not text.lstrip().startswith(("{", "[")):
        return False
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True
