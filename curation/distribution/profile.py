"""Everything that is counted of a set of rows, in one value."""

from __future__ import annotations

import re
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import pyarrow as pa
import yaml

from curation.distribution.pii import Found, replace_spans, spans_of
from curation.distribution.schema import Description, Example, Length, Personal, Share, Spread, Topic, Wording
from curation.distribution.topics import Topics
from curation.errors import ProjectError, UserError
from curation.records import Kind

if TYPE_CHECKING:
    from tokenizers import Tokenizer

UNKNOWN = "und"
"""ISO 639's code for undetermined: too few letters, or no language that stands out."""

_LETTERS = 12
"""A text with fewer letters of an alphabet is not judged; `Paris, 1889` is no English."""

_IDEOGRAPHS = 2

_CONFIDENCE = 0.3
"""Below it a text is `und`: .001 of 3,076 English questions and .015 of 2,926 short answers were then given a wrong
language, .007 and .165 none."""

_READ = 2_000
"""Characters that are read of a long text."""


def find_languages(texts: Sequence[str] | pa.Array) -> pa.Table:
    """The language (ISO 639-1 where there is one) and its probability for each text.

    A text of fewer than twelve letters, or one whose best language has a probability below .3, is `und`. At most
    2,000 characters of each are read, so time grows with the number of texts.
    """
    plain: list[str] = texts.to_pylist() if isinstance(texts, pa.Array | pa.ChunkedArray) else list(texts)
    known: dict[str, tuple[str, float]] = {}
    for text in plain:
        head = text[:_READ]
        if head not in known:
            known[head] = _classify(head)
    found = [known[text[:_READ]] for text in plain]
    return pa.table({"language": pa.array([f[0] for f in found], pa.string()), "confidence": pa.array([f[1] for f in found], pa.float64())})


def _classify(text: str) -> tuple[str, float]:
    letters = sum(map(str.isalpha, text))
    if letters < _LETTERS and sum(c > "\u2e7f" and c.isalpha() for c in text) < _IDEOGRAPHS:
        return UNKNOWN, 0.0
    language, confidence = _identifier().classify(text)
    return (str(language), float(confidence)) if confidence >= _CONFIDENCE else (UNKNOWN, float(confidence))


@cache
def _identifier() -> Any:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    try:
        return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
    except OSError as error:  # it unpacks 5 MB into a temporary file
        fact = f"the language model could not be written to it ({error.strerror or error})"
        raise UserError(f"temporary folder {tempfile.gettempdir()}", fact, "make space there, or set TMPDIR to another folder") from error


_BARS = 24

_BATCH = 2_000


def load_tokenizer(path: Path) -> Tokenizer:
    """The tokenizer of a model's folder, or of one tokenizer.json, without its truncation and padding.

    Raises:
        ProjectError: there is no such file, or it is no tokenizer.
    """
    from tokenizers import Tokenizer

    file = path / "tokenizer.json" if path.is_dir() else path
    if not file.is_file():
        raise ProjectError(
            f"tokenizer {path}", "holds no tokenizer.json", "name the folder of your base model, or leave describe.tokenizer out"
        )
    try:
        tokenizer = Tokenizer.from_file(str(file))
    except Exception as error:  # tokenizers raises a bare Exception
        raise ProjectError(
            f"tokenizer {file}", f"cannot be read ({error})", "name a tokenizer.json that the library tokenizers wrote"
        ) from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def measure_lengths(texts: Sequence[str] | pa.Array, *, tokenizer: Tokenizer | None = None) -> pa.Table:
    """Characters (code points) and tokens of each text; tokens are null without a tokenizer.

    Special tokens are not counted. Time and memory grow with the characters; 2,000 texts are tokenized at a time.
    """
    plain: list[str] = texts.to_pylist() if isinstance(texts, pa.Array | pa.ChunkedArray) else list(texts)
    characters = pa.array([len(text) for text in plain], pa.int64())
    if tokenizer is None:
        return pa.table({"characters": characters, "tokens": pa.nulls(len(plain), pa.int64())})
    counts: list[int] = []
    for start in range(0, len(plain), _BATCH):
        block = [text.encode("utf-8", "replace").decode() for text in plain[start : start + _BATCH]]
        counts += [len(made.ids) for made in tokenizer.encode_batch_fast(block, add_special_tokens=False)]
    return pa.table({"characters": characters, "tokens": pa.array(counts, pa.int64())})


def spread_of(values: Sequence[float] | np.ndarray[Any, Any]) -> Spread:
    """Mean, quantiles and bars; the bars reach to the 99th percentile, so that one huge row does not flatten them."""
    numbers = np.asarray(values, dtype=np.float64)
    if not len(numbers):
        return Spread(count=0, mean=0, low=0, p5=0, median=0, p95=0, high=0)
    low, p5, median, p95, p99, high = (float(q) for q in np.quantile(numbers, (0, 0.05, 0.5, 0.95, 0.99, 1)))
    step = max(1.0, np.ceil((p99 - low) / _BARS))
    edges = low + step * np.arange(int((p99 - low) // step) + 2)
    bars, _ = np.histogram(np.minimum(numbers, edges[-1]), bins=edges)
    return Spread(
        count=len(numbers), mean=float(numbers.mean()), low=low, p5=p5, median=median, p95=p95, high=high,
        edges=tuple(float(edge) for edge in edges), bars=tuple(int(bar) for bar in bars),
    )  # fmt: skip


_OPENING_WORDS = 3

_END = 300
"""Characters at the end of an answer that a closer may stand in."""


class Phrase(NamedTuple):
    """One entry of the list."""

    phrase: str
    kind: str
    where: str
    source: str
    pattern: re.Pattern[str]


def find_phrases(texts: Sequence[str] | pa.Array) -> pa.Table:
    """Where each answer refuses or uses a stock phrase: row, phrase, kind, source, start, end (in characters).

    Each phrase is reported once a row, where it first stands. Time grows with the characters.
    """
    plain: list[str] = texts.to_pylist() if isinstance(texts, pa.Array | pa.ChunkedArray) else list(texts)
    found = []
    for row, text in enumerate(plain):
        straight = text.replace("\u2019", "'")
        for phrase in load_phrases():
            if span := _place(phrase, straight):
                found.append((row, phrase.phrase, phrase.kind, phrase.source, *span))
    columns = list(zip(*found, strict=True)) or [()] * 6
    names = {"row": pa.int64(), "phrase": pa.string(), "kind": pa.string(), "source": pa.string(), "start": pa.int64(), "end": pa.int64()}
    return pa.table({name: pa.array(column, kind) for (name, kind), column in zip(names.items(), columns, strict=True)})


def find_openings(texts: Sequence[str] | pa.Array, *, least: float = 0.02, most: int = 10) -> pa.Table:
    """The first three words that open at least `least` of the texts, the most frequent first: opening, rows.

    One opening on a large share of the answers is a template that the model will learn.
    """
    plain: list[str] = texts.to_pylist() if isinstance(texts, pa.Array | pa.ChunkedArray) else list(texts)
    counts = Counter(" ".join(text[:200].split()[:_OPENING_WORDS]).casefold() for text in plain)
    counts.pop("", None)
    often = [(words, n) for words, n in counts.most_common(most) if n > 1 and n >= least * len(plain)]
    return pa.table({"opening": pa.array([o for o, _ in often], pa.string()), "rows": pa.array([n for _, n in often], pa.int64())})


@cache
def load_phrases() -> tuple[Phrase, ...]:
    """The list, compiled."""
    listed = yaml.safe_load(Path(__file__).with_name("phrases.yaml").read_text(encoding="utf-8"))
    anchors = {"start": (r"\A[\s\"'*#]*", r"(?!\w)"), "end": (r"(?<!\w)", r"(?!\w)"), "anywhere": (r"(?<!\w)", r"(?!\w)")}
    phrases = []
    for entry in listed["phrases"]:
        before, after = anchors[entry["where"]]
        pattern = re.compile(f"{before}(?P<it>{entry['pattern']}){after}", re.IGNORECASE)
        phrases.append(Phrase(entry["phrase"], entry["kind"], entry["where"], listed["sources"][entry["source"]], pattern))
    return tuple(phrases)


def _place(phrase: Phrase, text: str) -> tuple[int, int] | None:
    match = phrase.pattern.search(text, max(0, len(text) - _END)) if phrase.where == "end" else phrase.pattern.search(text)
    return match.span("it") if match else None


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
    ) -> None:
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
