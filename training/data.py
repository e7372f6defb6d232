"""From a signed snapshot to rows a trainer takes. Nothing is trained on that did not pass `load_snapshot`."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from curation.records import Kind
from training.chat import Rendered, merge_system, read_row
from training.config import RunFile, RunFileError, TrainingError

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict

    from curation.snapshot import ProtectedSet, Snapshot

Split = Literal["train", "validation", "test"]
KIND_OF: dict[str, Kind] = {"sft": "instruction", "dpo": "preference"}
COLUMNS: dict[str, tuple[str, ...]] = {"instruction": ("prompt", "completion"), "preference": ("prompt", "chosen", "rejected")}
LATEST = "@latest"
Rows: TypeAlias = "Dataset | Sequence[Mapping[str, Any]]"
"""Rows of a snapshot: a datasets.Dataset, or plain rows."""
REVIEW_LEVELS = ("none", "sample", "all")
"""How much of a snapshot people have reviewed, the least first."""


@dataclass(frozen=True)
class LengthStats:
    """What can be trained on of one split. Token counts are of prompt and completion together, chat template included."""

    rows: int
    median: int
    longest: int
    """Of the rows that are trained on."""
    too_long: tuple[str, ...] = ()
    """Ids of the rows above max_length."""
    left_out: tuple[str, ...] = ()
    """Ids of the rows that are not trained on: too long, or with a fault."""
    faults: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Ids by what the chat template does wrong to them."""
    merged: int = 0
    """Rows whose prompt ends in white space that shares a token with the answer; TRL trains that token too."""


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


def read_rows(snapshot: Snapshot, split: Split, *, system: str = "keep") -> list[dict[str, Any]]:
    """Return one split as plain rows, with their ids.

    Args:
        snapshot: the verified snapshot.
        split: train, validation or test.
        system: merge puts each system message in front of the first user message.
    """
    rows = list(snapshot.table(split).to_pylist())
    return rows if system == "keep" else [{**row, "prompt": merge_system(row["prompt"])} for row in rows]


def load_splits(snapshot: Snapshot) -> DatasetDict:
    """Load the splits of a verified snapshot as a datasets.DatasetDict, with the Parquet files' schema as features.

    The tables are parsed from the bytes whose sha256 the signed manifest names, and that sha256 is each dataset's fingerprint. The files
    are not opened a second time by path, so what was checked is what is trained on.
    """
    from datasets import Dataset, DatasetDict, DatasetInfo, Features, NamedSplit

    manifest, loaded = snapshot.manifest, {}
    for split, facts in manifest.splits.items():
        table = snapshot.table(split)
        features = Features.from_arrow_schema(table.schema)
        info = DatasetInfo(dataset_name=manifest.name, version=f"{manifest.version}.0.0", license=manifest.licence, features=features)
        loaded[split] = Dataset(table, info=info, split=NamedSplit(split), fingerprint=manifest.files[facts.file][:16])
    return DatasetDict(loaded)


def to_dataset(rows: Rows, *, kind: Kind) -> Dataset:
    """Return the columns that TRL takes, ids and labels left out, of a dataset or of plain rows."""
    from datasets import Dataset

    wanted = list(COLUMNS[kind])
    if isinstance(rows, Dataset):
        return rows.select_columns(wanted)
    return Dataset.from_list([{column: row[column] for column in wanted} for row in rows])


def render_rows(rows: list[dict[str, Any]], tokenizer: Any, *, kind: Kind) -> list[Rendered]:
    """Render every row as the trainer does."""
    return [read_row(row, tokenizer, answers=COLUMNS[kind][1:]) for row in rows]


def describe_lengths(rows: list[dict[str, Any]], rendered: list[Rendered], *, max_length: int, too_long: str = "drop") -> LengthStats:
    """Count the rows that can be trained on and name the others.

    Args:
        rows: the rows of one split.
        rendered: the same rows as the trainer sees them.
        max_length: tokens of prompt and completion together.
        too_long: drop leaves longer rows out; cut trains on their beginnings, so only rows without room for an answer are left out.
    """
    pairs = [(str(row["id"]), text) for row, text in zip(rows, rendered, strict=True)]
    faults: dict[str, list[str]] = {}
    for name, text in pairs:
        if text.fault:
            faults.setdefault(text.fault, []).append(name)
    longer = [name for name, text in pairs if text.whole > max_length]
    no_room = {name for name, text in pairs if text.prompt >= max_length}
    gone = {name for names in faults.values() for name in names} | (set(longer) if too_long == "drop" else no_room)
    ordered = sorted(text.whole for name, text in pairs if name not in gone)
    return LengthStats(
        rows=len(rows),
        median=ordered[len(ordered) // 2] if ordered else 0,
        longest=ordered[-1] if ordered else 0,
        too_long=tuple(longer),
        left_out=tuple(name for name, _ in pairs if name in gone),
        faults={reason: tuple(names) for reason, names in faults.items()},
        merged=sum(text.merged and not text.fault for text in rendered),
    )


def describe_left_out(lengths: Mapping[str, Mapping[str, Any]], *, max_length: int) -> list[str]:
    """Return a line for each reason why rows of a split are left out or cut."""
    lines = []
    for split, facts in lengths.items():
        gone, faulty = set(facts["left_out"]), {name for names in facts["faults"].values() for name in names}
        longer = [name for name in facts["too_long"] if name not in faulty]
        reasons = [
            ("are cut, because they are longer than max_length", [name for name in longer if name not in gone]),
            ("are left out, because they are longer than max_length", [name for name in longer if name in gone]),
        ]
        for fate, names in reasons:
            if names:
                lines.append(f"{len(names)} of {facts['rows']} {split} rows {fate} ({max_length} tokens): {name_rows(names)}")
        for reason, names in facts["faults"].items():
            lines.append(f"{len(names)} of {facts['rows']} {split} rows are left out: {reason}: {name_rows(names)}")
        if facts["merged"]:
            lines.append(f"{facts['merged']} {split} rows: white space at the end of the prompt shares a token with the answer")
    return lines


def name_rows(names: Sequence[str]) -> str:
    """Return the first ids, shortened."""
    return ", ".join(name[:12] for name in names[:5]) + (", ..." if len(names) > 5 else "")


def kept_rows(rows: Dataset, facts: Mapping[str, Any], *, system: str = "keep") -> Dataset:
    """Return the rows of a split that preflight did not leave out.

    Args:
        rows: the split.
        facts: what preflight says of it.
        system: merge puts each system message in front of the first user message.
    """
    gone = set(facts["left_out"])
    kept = rows.select([number for number, name in enumerate(rows["id"]) if str(name) not in gone]) if gone else rows
    return kept if system == "keep" else kept.map(lambda row: {"prompt": merge_system(row["prompt"])})


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
