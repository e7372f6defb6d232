"""Keep or drop a row whatever the rules say, and erase a row's text."""

from __future__ import annotations

import getpass
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from argilla_setup.shown import visible
from curation import decide as rules
from curation.errors import ProjectError, command
from curation.generate.requests import shorten
from curation.records import KINDS, InstructionRecord, Record, parse_record, prompt_text
from curation.stages.decide import decide
from curation.store import call_stats, facts, records, reviews, runs
from curation.views.annotations import edited_texts, opinions_by_seq
from curation.views.decisions import decide_rows
from curation.views.runs import _snapshots_with
from curation.workspace import StageResult, Workspace, open_workspace

TELLING = 20
"""Characters from which a text is told apart from others by its words."""


def override(folder: Path, identity: str, *, action: Literal["keep", "drop"], reason: str, choice: str | None = None) -> StageResult:
    """Keep or drop a row whatever the gates say. The reason, the choice and the user's name are stored. Core: decide.py.

    Args:
        folder: of the project.
        identity: the record's id, or its first characters.
        action: "keep" or "drop".
        reason: why, in the user's words.
        choice: for keep: "first", "second", "approve", "reject" or "edit:USER". It settles what annotators disagree about.

    Returns:
        The row's new verdict, and of a kept row the id and the text of what is kept.

    Raises:
        ProjectError: no such record, no reason, a choice this row does not have, or a dispute that a keep without a choice leaves open.
    """
    _need_reason(action, folder, identity, reason)
    with open_workspace(folder) as workspace:
        seq = records.find_seq(workspace.db, identity)
        chosen = _check_choice(workspace, seq, identity, choice) if action == "keep" else None
        facts.add_override(workspace.db, seq, action=action, reason=reason, by=_who(), choice=choice, chosen=chosen)
    decide(folder)
    with open_workspace(folder) as workspace:
        verdict = facts.verdicts_by_seq(workspace.db).get(seq, {})
        counts = {"id": records.ids_of(workspace.db)[seq], "verdict": verdict.get("verdict")}
        if action == "drop":
            return StageResult("drop", 1, 0, counts)
        kept = _kept(workspace, seq, choice, chosen, verdict)
        notes = [f"Kept: {visible(kept['text'])}"] if "text" in kept else []
        if choice is None and verdict.get("verdict") in ("rejected", "disputed"):
            again = command("curate", "keep", folder, identity, "--as", "approve" if kept["kind"] == "instruction" else "first")
            notes = [f"The annotators reject this row, and keep alone outranks the gates only. To approve it all the same: {again}"]
        return StageResult("keep", 1, 1, {**counts, **({"as": choice} if choice else {}), **kept}, notes)


def _check_choice(workspace: Workspace, seq: int, identity: str, choice: str | None) -> int | None:
    """Return the edited record that a choice "edit:USER" names; None for every other choice."""
    row = next((row for kind in KINDS for row in records.list_rows(workspace.db, kind) if row.seq == seq), None)
    if row is None:
        raise ProjectError(
            f"record {identity}", "is no row of its own, or is erased", command("curate", "trace", workspace.folder, identity)
        )
    opinions = opinions_by_seq(workspace, {seq: row}).get(seq, [])
    offered = rules.choices_of(row.kind, opinions)
    said = ", ".join(f"{o.user}: {o.says}" for o in opinions)
    how = f"{command('curate', 'keep', workspace.folder, identity, '--as')} {'|'.join(offered)} --reason WHY"
    if choice is None:
        verdict = next(d.verdict for d in decide_rows(workspace) if d.seq == seq)
        if rules.needs_choice(row.kind, verdict, opinions, workspace.project.review.overlap):
            raise ProjectError(f"record {identity}", f"annotators disagree ({said}), so keep needs a choice", how)
        return None
    if not opinions:
        fact = "no annotator has answered this row yet, so there is nothing to choose"
        raise ProjectError(f"record {identity}", fact, command("curate", "keep", workspace.folder, identity, "--reason", "WHY"))
    if choice not in offered:
        raise ProjectError(f"--as {choice}", f"this row has no such choice ({said})", how)
    user = choice.removeprefix("edit:")
    if user == choice:
        return None
    text = next(o.edited for o in opinions if o.user == user and o.says == "edit")
    chosen = next((s for s, t in edited_texts(workspace, row) if t == text), None)
    if chosen is None:
        raise ProjectError(f"--as {choice}", "that edit is no valid record, so it cannot be kept", how)
    return chosen


def _kept(workspace: Workspace, seq: int, choice: str | None, chosen: int | None, verdict: Mapping[str, Any]) -> dict[str, Any]:
    """Return the kind of the row, and the id and the text of what is kept; of a rejected row only the kind."""
    kept = records.load_row(workspace.db, chosen or seq)
    record = parse_record(kept["record"])
    found: dict[str, Any] = {"kind": kept["kind"]}
    if choice == "reject" or (verdict.get("verdict") in ("rejected", "disputed", "edited") and chosen is None):
        return found
    if isinstance(record, InstructionRecord):
        return found | {"kept": kept["id"], "text": record.completion.content}
    better = verdict.get("better")
    if better is None:
        return found | {"kept": kept["id"]}
    return found | {"kept": kept["id"], "better": ("first", "second")[better], "text": record.completions[better].content}


def _who() -> str:
    """The name of whoever runs this; a container's user may have none."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"user {os.getuid()}"


def erase(folder: Path, identity: str, *, reason: str) -> StageResult:
    """Take a row's text out for good; its id, its facts and a tombstone stay, and so do snapshots already written."""
    _need_reason("erase", folder, identity, reason)
    with open_workspace(folder) as workspace:
        seq = records.find_seq(workspace.db, identity)
        body = records.load_row(workspace.db, seq)["record"]
        if body is None:
            raise ProjectError(f"record {identity}", "is erased already", command("curate", "trace", folder, identity))
        record = parse_record(body)
        beginnings = _beginnings(record)
        looked = runs.forget_details(workspace.db, ("describe", "compare"))  # they show single rows
        renewed = call_stats.forget_asks(workspace.db, beginnings)
        is_gone = records.erase(workspace.db, seq, reason, vector_key=facts.text_key(prompt_text(record)))
        notes = _still_held(workspace, seq, beginnings)
    decide(folder)
    if not is_gone:
        notes.append("Another process has the workbench open; the text leaves the disk when that process ends.")
    if renewed:
        notes.append(f"Requests without an answer that quoted it, and are now made anew: {renewed:,}.")
    if looked:
        notes.append("What `curate describe` and `curate compare` had found is gone too, for it showed rows. Run them again.")
    return StageResult("erase", 1, 0, {"id": identity}, notes)


def _still_held(workspace: Workspace, seq: int, beginnings: Sequence[str]) -> list[str]:
    """Where an erased row's text still stands, in sentences with what takes it away."""
    ids, folder = records.ids_of(workspace.db), workspace.folder
    frozen = _snapshots_with(workspace, ids[seq]) if seq in facts.splits_by_seq(workspace.db) else []
    revoke = {path: f"{command('curate', 'revoke', folder / path)} --reason …" for path in frozen}
    notes = [f"{path} still holds the text: a snapshot never changes. Write a new one, and: {verb}" for path, verb in revoke.items()]
    notes += [f"{backup.name} is a backup that still holds the text; delete it." for backup in sorted(folder.glob("workbench.db.v*"))]
    if seq in reviews.pushed_seqs(workspace.db):
        notes.append(f"Argilla still shows the row: delete record {ids[seq]} there.")
    if grown := records.children_of(workspace.db, seq):
        made = ", ".join(ids[child] for child in grown)
        notes.append(f"Rows that were made from it may hold parts of it; look at them with curate trace: {made}.")
    if (folder / "report.html").is_file():
        notes.append(f"report.html may show it until it is written again: {command('curate', 'report', folder)}")
    if called := call_stats.count_holding(workspace.db, beginnings):
        where = ", ".join(f"{stage} {count:,}" for stage, count in called.items())
        notes.append(
            f"Calls that still hold the text: {where}. What was asked (later requests that show it as taken, or grow from it, among them) "
            "and what was answered is the proof of what was paid."
        )
    return notes


def _need_reason(verb: str, folder: Path, identity: str, reason: str) -> None:
    if not reason.strip():
        raise ProjectError("--reason", "is empty", command("curate", verb, folder, identity, "--reason", "why"))


def _beginnings(record: Record) -> list[str]:
    """What the row's texts are known by in a request; words that could be anybody's are not looked for."""
    rivals = (record.completion,) if isinstance(record, InstructionRecord) else record.completions
    texts = [shorten(turn.content) for turn in (*record.prompt, *rivals) if turn.role != "system"]
    return [text for text in texts if len(text) >= TELLING] or [max(texts, key=len)]
