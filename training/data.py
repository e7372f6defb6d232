"""From a signed snapshot to rows a trainer takes. Nothing is trained on that did not pass `load_snapshot`.

Also the evaluation file: it counts only if the snapshot names its sha256 among the protected sets, because only those were
screened against the training rows.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import orjson

from curation.records import Kind
from training.config import RunFile, RunFileError, TrainingError

if TYPE_CHECKING:
    from curation.snapshot import Snapshot

Split = Literal["train", "validation", "test"]
KIND_OF: dict[str, Kind] = {"sft": "instruction", "dpo": "preference"}
COLUMNS: dict[str, tuple[str, ...]] = {"instruction": ("prompt", "completion"), "preference": ("prompt", "chosen", "rejected")}
LATEST = "@latest"


@dataclass(frozen=True)
class LengthStats:
    """Tokens of prompt and completion together, over one split."""

    rows: int
    median: int
    longest: int
    too_long: tuple[str, ...]
    """Ids of the rows above max_length; their ends would be cut off."""


def resolve_snapshot(name: str) -> Path:
    """The folder that `name` means: a path as it stands, or PATH/NAME@latest for the highest version of NAME in PATH."""
    if not name.endswith(LATEST):
        return Path(name)
    stem = Path(name.removesuffix(LATEST))
    pattern = re.compile(re.escape(stem.name) + r"-v(\d+)-[0-9a-f]{8}")
    found = [(int(m[1]), p) for p in (stem.parent.iterdir() if stem.parent.is_dir() else ()) if (m := pattern.fullmatch(p.name))]
    if not found:
        raise TrainingError(name, f"no snapshot of that name in {stem.parent}", "curate snapshot --help")
    newest = [path for version, path in found if version == max(found)[0]]
    if len(newest) > 1:
        raise TrainingError(name, f"version {max(found)[0]} exists twice: {', '.join(sorted(p.name for p in newest))}", "name one of them")
    return newest[0]


def open_snapshot(run: RunFile, path: Path, *, kind: Kind) -> Snapshot:
    """The verified snapshot, or a refusal: unsigned, altered, foreign, of the wrong kind, or reviewed by no person."""
    from curation.snapshot import find_trusted_keys, load_snapshot

    snapshot = load_snapshot(path, trusted_keys=[*run.trusted_keys, *find_trusted_keys()], kind=kind)
    if snapshot.manifest.review.simulated and not run.allow_simulated_review:
        raise TrainingError(
            str(path),
            "its review was simulated; no person has approved these rows",
            "have people review them, or set allow_simulated_review: true in the run file",
        )
    return snapshot


def read_rows(snapshot: Snapshot, split: Split) -> list[dict[str, Any]]:
    """One split as plain rows, with their ids."""
    return list(snapshot.table(split).to_pylist())


def to_dataset(rows: list[dict[str, Any]], *, kind: Kind) -> Any:
    """A datasets.Dataset of the columns TRL takes, ids and labels left out."""
    from datasets import Dataset

    return Dataset.from_list([{column: row[column] for column in COLUMNS[kind]} for row in rows])


def token_lengths(rows: list[dict[str, Any]], tokenizer: Any, *, kind: Kind) -> list[int]:
    """Tokens of each row's longest conversation, template included."""
    answers = COLUMNS[kind][1:]
    texts = [[tokenizer.apply_chat_template([*row["prompt"], *row[a]], tokenize=False) for a in answers] for row in rows]
    return [max(len(ids) for ids in tokenizer(pair, add_special_tokens=False)["input_ids"]) for pair in texts]


def describe_lengths(rows: list[dict[str, Any]], lengths: list[int], *, max_length: int) -> LengthStats:
    """Median, longest, and the rows that max_length would cut."""
    ordered = sorted(lengths)
    too_long = tuple(str(row["id"]) for row, length in zip(rows, lengths, strict=True) if length > max_length)
    return LengthStats(len(rows), ordered[len(ordered) // 2] if ordered else 0, ordered[-1] if ordered else 0, too_long)


def check_protected(file: Path, snapshot: Snapshot) -> str:
    """The sha256 of the evaluation file, which must be one of the snapshot's protected sets."""
    if not file.is_file():
        raise RunFileError("eval.file", f"{file} does not exist", "name one of the project's protected sets")
    digest = file_sha256(file)
    protected = {item.sha256: item.name for item in snapshot.manifest.protected}
    if digest not in protected:
        names = ", ".join(sorted(protected.values())) or "none"
        fact = f"{file.name} is not among the snapshot's protected sets ({names}), so nothing says the training rows do not contain it"
        raise TrainingError("eval.file", fact, "protect the file in project.yaml, then curate run --until snapshot")
    return digest


def read_eval_items(file: Path, *, n: int) -> list[dict[str, Any]]:
    """The first n lines of an evaluation file; a line without what the metrics need is named."""
    items = list(_eval_lines(file, n))
    if not items:
        raise TrainingError(str(file), "holds no lines")
    return items


def file_sha256(path: Path) -> str:
    """sha256 of a file, read in pieces."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _eval_lines(file: Path, n: int) -> Iterator[dict[str, Any]]:
    with file.open("rb") as stream:
        for number, line in enumerate(stream, start=1):
            if number > n:
                return
            try:
                item = orjson.loads(line)
            except orjson.JSONDecodeError as error:
                raise TrainingError(f"{file.name} line {number}", f"is not JSON ({error})") from error
            missing = {"phrase", "code", "chapter", "options", "descriptions"} - set(item) if isinstance(item, dict) else {"phrase"}
            if missing:
                raise TrainingError(f"{file.name} line {number}", f"lacks {', '.join(sorted(missing))}")
            if item["code"] not in item["options"] or len(item["options"]) < 2:
                raise TrainingError(f"{file.name} line {number}", "options do not hold the right code and a wrong one")
            if len(item["options"]) != len(item["descriptions"]):
                raise TrainingError(f"{file.name} line {number}", "options and descriptions differ in number")
            yield item
