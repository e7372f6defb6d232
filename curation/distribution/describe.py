"""Everything that is counted of a set of rows, in one value."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from curation.distribution.facts import Description, Example, Length, Personal, Share, Topic, Wording
from curation.distribution.languages import find_languages
from curation.distribution.lengths import measure_lengths, spread_of
from curation.distribution.personal import Found, replace_spans, spans_of
from curation.distribution.phrases import find_openings, find_phrases
from curation.distribution.topics import Topics
from curation.records import Kind

if TYPE_CHECKING:
    from tokenizers import Tokenizer

Part = Literal["prompt", "completion"]

_EXAMPLES = 3
_AROUND = 40
"""Characters shown on each side of what was found."""
_CENTRAL = 300


def describe(
    prompts: Sequence[str],
    completions: Sequence[str],
    *,
    owners: Sequence[int] | None = None,
    ids: Sequence[str] | None = None,
    kind: Kind = "instruction",
    scope: str = "",
    turns: Sequence[int] = (),
    classes: Mapping[str, Sequence[str | None]] | None = None,
    topics: Topics | None = None,
    no_topics: str = "",
    tokenizer: Tokenizer | None = None,
    tokenizer_name: str | None = None,
    region: str | None = "US",
) -> Description:
    """Lengths, turns, languages, wording, personal data, topics and classes of rows.

    Time grows with the characters (most of it in finding personal data, about 0.8 s a million) and memory with the findings.

    Args:
        owners: the row of each completion, where rows have several (a pair has two); otherwise completion i is row i's.
        ids: what names the rows in examples; their numbers unless given.
        classes: for each label or attribute its value in every row.
        topics: what `find_topics` gave for the prompts.
    """
    rows_of: dict[Part, Sequence[int]] = {
        "prompt": range(len(prompts)),
        "completion": owners if owners is not None else range(len(completions)),
    }
    texts: dict[Part, Sequence[str]] = {"prompt": prompts, "completion": completions}
    spans = {part: [spans_of(text, region=region) for text in texts[part]] for part in texts}
    examples = _Examples(texts, spans, rows_of, ids if ids is not None else [str(row) for row in range(len(prompts))])
    wording, refusals = _wording(completions, rows_of["completion"], len(prompts), examples)
    return Description(
        kind=kind,
        rows=len(prompts),
        scope=scope,
        lengths=tuple(_lengths(texts, tokenizer)),
        tokenizer=tokenizer_name if tokenizer is not None else None,
        turns=_shares((f"{n} turn{'' if n == 1 else 's'}" for n in turns), len(prompts)),
        languages=_shares(find_languages(_together(prompts, completions, rows_of["completion"]))["language"].to_pylist(), len(prompts)),
        openings=_openings(completions),
        wording=wording,
        refusals=refusals,
        personal=_personal(spans, rows_of, examples),
        topics=_topics(topics, prompts, spans["prompt"]) if topics is not None else (),
        no_topics=no_topics,
        classes={name: _shares((v for v in values if v is not None), len(prompts)) for name, values in (classes or {}).items()},
    )


class _Examples:
    """Shows a place in a text with every personal value in it masked."""

    def __init__(
        self, texts: Mapping[Part, Sequence[str]], spans: Mapping[Part, Sequence[Sequence[Found]]], rows_of: Any, names: Sequence[str]
    ):
        self.texts, self.spans, self.rows_of, self.names = texts, spans, rows_of, names

    def at(self, part: Part, number: int, start: int, end: int) -> Example:
        text, spans = self.texts[part][number], self.spans[part][number]
        low, high = max(0, start - _AROUND), min(len(text), end + _AROUND)
        # The window grows to hold whole values: half a value is not masked.
        low = min([low, *(span.start for span in spans if span.start < low < span.end)])
        high = max([high, *(span.end for span in spans if span.start < high < span.end)])
        inside = [span._replace(start=span.start - low, end=span.end - low) for span in spans if low <= span.start and span.end <= high]
        shown = replace_spans(text[low:high], inside)
        row = self.names[self.rows_of[part][number]]
        return Example(row=row, part=part, start=start, end=end, shown=f"{'…' if low else ''}{shown}{'…' if high < len(text) else ''}")


def _together(prompts: Sequence[str], completions: Sequence[str], owners: Sequence[int]) -> list[str]:
    """Each prompt with its first completion: the longer the text, the surer the language."""
    first = [""] * len(prompts)
    for text, row in zip(completions, owners, strict=True):
        first[row] = first[row] or text
    return [f"{prompt}\n{own}" for prompt, own in zip(prompts, first, strict=True)]


def _openings(completions: Sequence[str]) -> tuple[Share, ...]:
    found = find_openings(completions).to_pylist()
    return tuple(Share(name=line["opening"], rows=line["rows"], share=line["rows"] / len(completions)) for line in found)


def _lengths(texts: Mapping[Part, Sequence[str]], tokenizer: Tokenizer | None) -> Iterable[Length]:
    for part, own in texts.items():
        table = measure_lengths(own, tokenizer=tokenizer)
        yield Length(part=part, unit="characters", spread=spread_of(table["characters"].to_numpy()))
        if tokenizer is not None:
            yield Length(part=part, unit="tokens", spread=spread_of(table["tokens"].to_numpy()))


def _shares(values: Iterable[str], total: int) -> tuple[Share, ...]:
    counts = Counter(values)
    return tuple(
        Share(name=name, rows=n, share=n / max(1, total)) for name, n in sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    )


def _wording(completions: Sequence[str], owners: Sequence[int], total: int, examples: _Examples) -> tuple[tuple[Wording, ...], int]:
    rows: dict[str, set[int]] = defaultdict(set)
    shown: dict[str, list[Example]] = defaultdict(list)
    facts, refused = {}, set[int]()
    for line in find_phrases(completions).to_pylist():
        phrase, row = line["phrase"], owners[line["row"]]
        facts[phrase] = (line["kind"], line["source"])
        if row not in rows[phrase] and len(shown[phrase]) < _EXAMPLES:
            shown[phrase].append(examples.at("completion", line["row"], line["start"], line["end"]))
        rows[phrase].add(row)
        if line["kind"] == "refusal":
            refused.add(row)
    found = [
        Wording(phrase=p, kind=facts[p][0], rows=len(own), share=len(own) / max(1, total), source=facts[p][1], examples=tuple(shown[p]))
        for p, own in rows.items()
    ]
    return tuple(sorted(found, key=lambda w: (-w.rows, w.phrase))), len(refused)


def _personal(
    spans: Mapping[Part, Sequence[Sequence[Found]]], rows_of: Mapping[Part, Sequence[int]], examples: _Examples
) -> tuple[Personal, ...]:
    rows: dict[tuple[str, str], set[int]] = defaultdict(set)
    shown: dict[tuple[str, str], list[Example]] = defaultdict(list)
    counts: Counter[tuple[str, str]] = Counter()
    for part, lists in spans.items():
        for number, found in enumerate(lists):
            for span in found:
                key, row = (span.kind, span.found_by), rows_of[part][number]
                if row not in rows[key] and len(shown[key]) < _EXAMPLES:
                    shown[key].append(examples.at(part, number, span.start, span.end))
                rows[key].add(row)
                counts[key] += 1
    ordered = sorted(counts, key=lambda key: (-len(rows[key]), key))
    return tuple(Personal(kind=k[0], rows=len(rows[k]), found=counts[k], found_by=k[1], examples=tuple(shown[k])) for k in ordered)


def _topics(topics: Topics, prompts: Sequence[str], spans: Sequence[Sequence[Found]]) -> tuple[Topic, ...]:
    return tuple(
        Topic(
            name=line["name"], terms=tuple(line["terms"]), rows=line["rows"], share=line["rows"] / max(1, len(prompts)),
            central=replace_spans(prompts[line["central"]], spans[line["central"]])[:_CENTRAL],
        )
        for line in topics.table.to_pylist()
    )  # fmt: skip
