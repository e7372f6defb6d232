"""From a signed snapshot to rows a trainer takes. Nothing is trained on that did not pass `load_snapshot`."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from curation.records import Kind
from training.config import RunFile, RunFileError, TrainingError

if TYPE_CHECKING:
    from curation.snapshot import ProtectedSet, Snapshot

Split = Literal["train", "validation", "test"]
KIND_OF: dict[str, Kind] = {"sft": "instruction", "dpo": "preference"}
COLUMNS: dict[str, tuple[str, ...]] = {"instruction": ("prompt", "completion"), "preference": ("prompt", "chosen", "rejected")}
LATEST = "@latest"
REVIEW_LEVELS = ("none", "sample", "all")
"""How much of a snapshot people have reviewed, the least first."""


@dataclass(frozen=True)
class RowLength:
    """Tokens of one row, template included."""

    prompt: int
    """Up to where the answer begins, as TRL finds it: where prompt and conversation part."""
    whole: int
    """Of the longest conversation: a pair has two."""
    parts_early: bool = False
    """The template renders a prompt by itself otherwise than as the beginning of a conversation."""


@dataclass(frozen=True)
class LengthStats:
    """Tokens of prompt and completion together, over one split."""

    rows: int
    median: int
    longest: int
    too_long: tuple[str, ...]
    """Ids of the rows above max_length; the ends of their answers are cut off."""
    left_out: tuple[str, ...] = ()
    """Those of them whose prompt alone fills max_length: there is nothing to learn, and TRL leaves them out."""
    parted_early: int = 0
    """Rows whose prompt is no beginning of the conversation: the model is trained after another text than it will be asked with."""


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
    given = snapshot.manifest.review.mode
    if REVIEW_LEVELS.index(given) < REVIEW_LEVELS.index(run.require.review):
        asked = {"none": "no person has reviewed these rows", "sample": "people reviewed only a random sample of these rows"}[given]
        step = f"have people review all rows (review: all in project.yaml), or write require: {{review: {given}}} in the run file"
        raise TrainingError(f"{path}: review {given}", f"{asked}, and the run file requires review: {run.require.review}", step)
    return snapshot


def open_recorded(run: RunFile, folder: Path, done: Mapping[str, Any]) -> Snapshot:
    """Verify again the snapshot that a finished run was trained on, revocations included, and return it.

    Args:
        run: the run file whose trusted keys count.
        folder: the finished run's folder, which the recorded path is relative to.
        done: its run.json.

    Raises:
        TrainingError: the snapshot is not there or is another one.
        SnapshotError: its signature does not hold or it was revoked.
    """
    recorded = done["snapshot"]
    path = (folder / recorded["path"]).resolve()
    if not path.is_dir():
        fact = f"does not exist; the {done['kind']} run in {folder} was trained on it"
        raise TrainingError(str(path), fact, "restore that snapshot folder, or the run folder to its place beside it")
    snapshot = open_snapshot(run, path, kind=recorded["kind"])
    if snapshot.manifest.digest.root != recorded["digest"]:
        fact = f"is not the snapshot the {done['kind']} adapter was trained on (digest {recorded['digest'][:12]})"
        raise TrainingError(str(snapshot.path), fact, "restore that snapshot folder")
    return snapshot


def check_signature(run: RunFile, folder: Path) -> str | None:
    """Return the signer of an adapter folder, None if it is not signed; refuse a signature that does not hold.

    Raises:
        TrainingError: the folder was changed after it was signed, or the key is not trusted here.
    """
    from curation.snapshot import find_trusted_keys, verify_folder

    found = verify_folder(folder, [*run.trusted_keys, *find_trusted_keys()])
    if found.status in ("verified", "unsigned"):
        return found.signer
    again = "restore the adapter, or train it again"
    if found.status in ("foreign key", "intact, signer unknown"):
        again = "add the signer's public key to trusted_keys in the run file, or to your trust store"
    raise TrainingError(str(folder), f"its signature does not hold: {'; '.join(str(p) for p in found.problems[:3])}", again)


def read_rows(snapshot: Snapshot, split: Split) -> list[dict[str, Any]]:
    """One split as plain rows, with their ids."""
    return list(snapshot.table(split).to_pylist())


def to_dataset(rows: list[dict[str, Any]], *, kind: Kind) -> Any:
    """A datasets.Dataset of the columns TRL takes, ids and labels left out."""
    from datasets import Dataset

    return Dataset.from_list([{column: row[column] for column in COLUMNS[kind]} for row in rows])


def token_lengths(rows: list[dict[str, Any]], tokenizer: Any, *, kind: Kind) -> list[RowLength]:
    """Tokens of each row's prompt and of its longest conversation, template included."""
    return [_row_length(row, tokenizer, answers=COLUMNS[kind][1:]) for row in rows]


def describe_lengths(rows: list[dict[str, Any]], lengths: list[RowLength], *, max_length: int) -> LengthStats:
    """Median, longest, the rows that max_length cuts and those it leaves nothing of."""
    ordered = sorted(length.whole for length in lengths)
    pairs = [(str(row["id"]), length) for row, length in zip(rows, lengths, strict=True)]
    return LengthStats(
        rows=len(rows),
        median=ordered[len(ordered) // 2] if ordered else 0,
        longest=ordered[-1] if ordered else 0,
        too_long=tuple(name for name, length in pairs if length.whole > max_length),
        left_out=tuple(name for name, length in pairs if length.prompt >= max_length),
        parted_early=sum(length.parts_early for length in lengths),
    )


def describe_left_out(lengths: Mapping[str, Mapping[str, Any]], *, max_length: int) -> list[str]:
    """A line for each split that loses something to max_length, and for a template that parts early."""
    lines = []
    for split, facts in lengths.items():
        gone = facts["left_out"]
        lost = set(gone)
        cut = [name for name in facts["too_long"] if name not in lost]
        for ids, fate in ((cut, "longer than max_length, so their answers are cut"), (gone, "left out: the prompt alone fills max_length")):
            if ids:
                shown = ", ".join(name[:12] for name in ids[:5])
                lines.append(
                    f"{len(ids)} of {facts['rows']} {split} rows are {fate} ({max_length}): {shown}{', ...' if len(ids) > 5 else ''}"
                )
        if facts["parted_early"]:
            lines.append(
                f"{facts['parted_early']} {split} rows: the chat template renders a prompt by itself otherwise than in a conversation"
            )
    return lines


def common_prefix(a: Sequence[int], b: Sequence[int]) -> int:
    """How many tokens two sequences begin with alike."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def check_protected(file: Path, protected: Sequence[ProtectedSet], *, of: str) -> ProtectedSet:
    """The protected set that an evaluation file is; a file the rows were not screened against is refused."""
    if not file.is_file():
        raise RunFileError("eval.file", f"{file} does not exist", "name one of the project's protected sets")
    digest = file_sha256(file)
    found = next((item for item in protected if item.sha256 == digest), None)
    if found is None:
        names = ", ".join(sorted(item.name for item in protected)) or "none"
        fact = f"{file.name} is not among the protected sets of {of} ({names}), so nothing says the training rows do not contain it"
        raise TrainingError(
            "eval.file", fact, "name it under screen: protected in project.yaml, then curate screen PROJECT and curate snapshot PROJECT"
        )
    return found


def file_sha256(path: Path) -> str:
    """sha256 of a file, read in pieces."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _row_length(row: dict[str, Any], tokenizer: Any, *, answers: tuple[str, ...]) -> RowLength:
    from jinja2 import TemplateError

    try:
        texts = [tokenizer.apply_chat_template(row["prompt"], tokenize=False, add_generation_prompt=True)]
        texts += [tokenizer.apply_chat_template([*row["prompt"], *row[answer]], tokenize=False) for answer in answers]
    except TemplateError as error:
        fact = f"the base model's chat template refuses it ({error})"
        raise TrainingError(f"row {str(row['id'])[:12]}", fact, "take a base model whose template has these roles") from error
    prompt, *whole = tokenizer(texts, add_special_tokens=False)["input_ids"]
    shared = min(common_prefix(prompt, ids) for ids in whole)
    return RowLength(shared, max(len(ids) for ids in whole), parts_early=shared < len(prompt))
