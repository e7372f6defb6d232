"""The context of a row on its page: requests and responses behind it, its twins word by word, and the adapters trained on it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
from pydantic import BaseModel, ConfigDict, ValidationError

from argilla_setup.shown import mask_values
from curation.errors import UserError
from curation.records import completion_text, load_record, prompt_text
from curation.snapshot.manifest import read_manifest
from curation.store import records
from curation.store.calls import CallLedger
from curation.views.row_story import RowStory
from curation.word_diff import mark_changes
from curation.workspace import Workspace

LONGEST = 60_000
"""Characters of a request or a response that are shown."""
MOST_CALLS, MOST_TWINS = 12, 8


@dataclass(frozen=True)
class CallText:
    """A request to a model and its stored response."""

    key: str
    stage: str
    purpose: str
    """Purpose of the call: the row itself, or the criterion that was scored."""
    model: str
    request: str
    """JSON, indented; secrets are masked."""
    response: str


@dataclass(frozen=True)
class Twin:
    """Another row that a finding or a reason names."""

    id: str
    relation: str
    prompt: str
    """Words of this row that the twin lacks in [-...-], words that only the twin has in {+...+}."""
    response: str
    same: bool
    """True if both texts are equal."""


@dataclass(frozen=True)
class Adapter:
    """A finished training run on a snapshot that holds the row in its training split."""

    run: str
    """Its folder, relative to the project."""
    kind: str
    snapshot: str
    adapter_digest: str
    finished: str


@dataclass(frozen=True)
class RowContext:
    """The context of a row."""

    calls: tuple[CallText, ...]
    twins: tuple[Twin, ...]
    adapters: tuple[Adapter, ...]


class _Snapshot(BaseModel):
    model_config = ConfigDict(extra="ignore")

    digest: str


class _Run(BaseModel):
    """The part of a training's run.json that is read here; `training.records` owns the format."""

    model_config = ConfigDict(extra="ignore")

    kind: str
    adapter_digest: str
    snapshot: _Snapshot
    finished: str = ""


def load_context(workspace: Workspace, story: RowStory) -> RowContext:
    """Load what surrounds a row; nothing of a row whose text was erased."""
    if story.erased is not None or story.record is None:
        return RowContext((), (), ())
    return RowContext(_calls(workspace, story), _twins(workspace, story), _adapters(workspace, story))


def _calls(workspace: Workspace, story: RowStory) -> tuple[CallText, ...]:
    ledger, found = CallLedger(workspace.db), list[CallText]()
    wanted: dict[str, list[str]] = {}
    for origin in story.origins:
        if origin.how == "generated":
            wanted.setdefault(origin.source, []).append("wrote the row")
    for score in story.scores:
        if score.call:
            wanted.setdefault(score.call, []).append(score.criterion)
    for choice in story.choices:
        if choice.call:
            wanted.setdefault(choice.call, []).append(f"compared, shown {choice.shown}")
    for key, purposes in list(wanted.items())[:MOST_CALLS]:
        answer = ledger.answer(key)
        if answer is not None:
            body = answer.request.body
            purpose = ", ".join(dict.fromkeys(purposes))
            found.append(CallText(key, answer.request.stage, purpose, str(body.get("model", "")), _shown(body), _shown(answer.message)))
    return tuple(found)


def _shown(value: Any) -> str:
    text = orjson.dumps(mask_values(value), option=orjson.OPT_INDENT_2).decode()
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}\n… {len(text) - LONGEST:,} more characters"


def _twins(workspace: Workspace, story: RowStory) -> tuple[Twin, ...]:
    named: dict[str, str] = {}
    said = [(one.twin, one.words) for one in (story.verdict.reasons if story.verdict else ())]
    for identity, words in (*said, *((one.twin, one.words) for one in story.findings)):
        if identity:
            named.setdefault(identity, words)
    for origin in story.origins:
        if origin.parent:
            named.setdefault(origin.parent, "the row that this one was made from")
    here, found = load_record(orjson.dumps(story.record)), list[Twin]()
    for identity, relation in list(named.items())[:MOST_TWINS]:
        row = records.load_row(workspace.db, records.find_seq(workspace.db, identity))
        if row["record"] is None:
            continue
        other = load_record(orjson.dumps(row["record"]))
        pairs = [(prompt_text(here), prompt_text(other)), (completion_text(here), completion_text(other))]
        marked = [mark_changes(a, b) if a != b else a for a, b in pairs]
        found.append(Twin(identity, relation, marked[0], marked[1], all(a == b for a, b in pairs)))
    return tuple(found)


def _adapters(workspace: Workspace, story: RowStory) -> tuple[Adapter, ...]:
    """Find the run folders of the project, PROJECT/runs/*, whose training split holds the row."""
    if not story.split or story.split[0] != "train":
        return ()
    digests: dict[str, str] = {}
    for path in story.snapshots:
        try:
            digests[read_manifest(workspace.folder / path).digest.root] = Path(path).name
        except UserError:
            continue  # the page of snapshots says what is wrong with it
    found = list[Adapter]()
    for file in sorted((workspace.folder / "runs").glob("*/run.json")):
        try:
            run = _Run.model_validate_json(file.read_bytes())
        except (OSError, ValidationError):
            continue  # no finished run
        if run.snapshot.digest in digests:
            place = str(file.parent.relative_to(workspace.folder))
            found.append(Adapter(place, run.kind, digests[run.snapshot.digest], run.adapter_digest, run.finished))
    return tuple(found)
