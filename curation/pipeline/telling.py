"""The verbs that only look, and the ones by which a person overrules: status, trace, report, keep, drop, erase."""

from __future__ import annotations

import getpass
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from argilla_setup.shown import visible
from curation import decide as rules
from curation import score as scoring
from curation.errors import ProjectError, command
from curation.generate.asks import shorten
from curation.pipeline.bench import Bench, Summary, open_bench
from curation.pipeline.deciding import GATES, decide, decide_rows
from curation.pipeline.edits import edited_texts
from curation.pipeline.facts_for_report import report_data
from curation.pipeline.following import next_step
from curation.pipeline.measuring import latest_diversity
from curation.pipeline.opinions import opinions_by_seq
from curation.pipeline.staleness import stale_values
from curation.records import KINDS, InstructionRecord, Record, parse_record, prompt_text
from curation.report import render_report
from curation.store import CallLedger, call_texts, erasing, facts, records, reviews, runs

TELLING = 20
"""Characters from which a text is told apart from others by its words."""


def status(folder: Path) -> Summary:
    """Where the project stands and what comes next."""
    with open_bench(folder) as bench:
        verdicts, rows, spent = facts.verdict_counts(bench.db), records.count_rows(bench.db), CallLedger(bench.db).spent_usd()
        counts = {
            "project": bench.project.name,
            "rows": rows,
            "verdicts": dict(verdicts),
            "calls": CallLedger(bench.db).counts(),
            "cost_usd": round(spent, 6),
            "usd_per_approved_row": spent / verdicts["approved"] if verdicts["approved"] else None,
            "budget_usd": bench.project.budget.usd,
            "cost_simulated": "offline-stand-in" in (bench.project.models.teacher.provider, bench.project.models.judge.provider),
            "diversity": _diversity(bench),
            "snapshots": [{k: s[k] for k in ("path", "kind", "rows", "digest")} for s in reviews.list_snapshots(bench.db)],
            "last": {
                stage: {"in": r["rows_in"], "out": r["rows_out"], "state": r["state"], "seconds": r["seconds"]}
                for stage, r in runs.last_runs(bench.db).items()
            },
        }
        with runs.record_run(bench.db, "status") as run:
            run.rows_in = run.rows_out = total = sum(rows.values())
        runs.forget_earlier(bench.db, "status", than=run.number, idle=False)
        stale, warnings = stale_values(bench)
        step = next_step(bench)
        return Summary("status", total, total, {**counts, **stale, "next": step.as_values()}, [*warnings, f"Next: {step}"])


def _diversity(bench: Bench) -> dict[str, Any] | None:
    """The figures of the latest `curate diversity`, where it has run."""
    found = latest_diversity(bench)
    return (
        {"coverage": found["coverage"]["share"], "vendi": found["set"]["vendi"], "naive_ratio": found.get("vendi_ratio")} if found else None
    )


def trace(folder: Path, identity: str) -> dict[str, Any]:
    """One row's whole story: how it came to be, what was measured, what people said, and where it went."""
    with open_bench(folder) as bench:
        seq = records.find_seq(bench.db, identity)
        story = records.load_row(bench.db, seq)
        ids = records.ids_of(bench.db)
        ledger = CallLedger(bench.db)
        for origin in story["origins"]:
            answer = ledger.answer(origin["source"]) if origin["how"] == "generated" else None
            origin["call"] = _call(answer.message, answer.request.body) if answer else None
            origin["parent"] = ids.get(origin["parent"])
        judges = {scoring.rubric_digest(bench.project, spec): spec.model for spec in scoring.judges_of(bench.project)}
        scores = facts.all_scores(bench.db, seq)
        story["scores"] = [{**s, "current": s["digest"] in judges, "judge": judges.get(s["digest"])} for s in scores]
        story["choices"] = facts.all_choices(bench.db, seq)
        story["findings"] = [_finding(f, ids) for f in facts.latest_findings(bench.db, GATES) if f.seq == seq]
        story["answers"] = [a._asdict() for a in reviews.answers_by_seq(bench.db).get(seq, [])]
        story["override"] = _override(facts.overrides_by_seq(bench.db).get(seq), ids)
        story["verdict"] = _verdict(facts.verdicts_by_seq(bench.db).get(seq), ids)
        story["split"] = facts.splits_by_seq(bench.db).get(seq)
        story["snapshots"] = _snapshots_with(bench, story["id"]) if story["split"] else []
        return story


def report(folder: Path, *, out: Path | None = None) -> Summary:
    """Write the project's page: one HTML file that needs nothing else. Core: report/."""
    with open_bench(folder) as bench:
        page = render_report(report_data(bench))
        with runs.record_run(bench.db, "report") as run:
            target = out or folder / "report.html"
            aside = target.with_name(f".{target.name}.{os.getpid()}")
            try:
                aside.write_text(page, encoding="utf-8")
                aside.replace(target)
            except OSError as error:
                raise ProjectError(str(target), f"could not be written ({error.strerror})", "name another file with --out") from error
            finally:
                aside.unlink(missing_ok=True)
            run.rows_in = run.rows_out = sum(records.count_rows(bench.db).values())
        stale, warnings = stale_values(bench)
        return Summary("report", run.rows_in, run.rows_out, {"file": str(target), "bytes": len(page.encode()), **stale}, warnings)


def override(folder: Path, identity: str, *, action: Literal["keep", "drop"], reason: str, choice: str | None = None) -> Summary:
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
    with open_bench(folder) as bench:
        seq = records.find_seq(bench.db, identity)
        chosen = _check_choice(bench, seq, identity, choice) if action == "keep" else None
        facts.add_override(bench.db, seq, action=action, reason=reason, by=_who(), choice=choice, chosen=chosen)
    decide(folder)
    with open_bench(folder) as bench:
        verdict = facts.verdicts_by_seq(bench.db).get(seq, {})
        counts = {"id": records.ids_of(bench.db)[seq], "verdict": verdict.get("verdict")}
        if action == "drop":
            return Summary("drop", 1, 0, counts)
        kept = _kept(bench, seq, choice, chosen, verdict)
        notes = [f"Kept: {visible(kept['text'])}"] if "text" in kept else []
        if choice is None and verdict.get("verdict") in ("rejected", "disputed"):
            again = command("curate", "keep", folder, identity, "--as", "approve" if kept["kind"] == "instruction" else "first")
            notes = [f"The annotators reject this row, and keep alone outranks the gates only. To approve it all the same: {again}"]
        return Summary("keep", 1, 1, {**counts, **({"as": choice} if choice else {}), **kept}, notes)


def _check_choice(bench: Bench, seq: int, identity: str, choice: str | None) -> int | None:
    """Return the edited record that a choice "edit:USER" names; None for every other choice."""
    row = next((row for kind in KINDS for row in records.list_rows(bench.db, kind) if row.seq == seq), None)
    if row is None:
        raise ProjectError(f"record {identity}", "is no row of its own, or is erased", command("curate", "trace", bench.folder, identity))
    opinions = opinions_by_seq(bench, {seq: row}).get(seq, [])
    offered = rules.choices_of(row.kind, opinions)
    said = ", ".join(f"{o.user}: {o.says}" for o in opinions)
    how = f"{command('curate', 'keep', bench.folder, identity, '--as')} {'|'.join(offered)} --reason WHY"
    if choice is None:
        verdict = next(d.verdict for d in decide_rows(bench) if d.seq == seq)
        if rules.needs_choice(row.kind, verdict, opinions, bench.project.review.overlap):
            raise ProjectError(f"record {identity}", f"annotators disagree ({said}), so keep needs a choice", how)
        return None
    if not opinions:
        fact = "no annotator has answered this row yet, so there is nothing to choose"
        raise ProjectError(f"record {identity}", fact, command("curate", "keep", bench.folder, identity, "--reason", "WHY"))
    if choice not in offered:
        raise ProjectError(f"--as {choice}", f"this row has no such choice ({said})", how)
    user = choice.removeprefix("edit:")
    if user == choice:
        return None
    text = next(o.edited for o in opinions if o.user == user and o.says == "edit")
    chosen = next((s for s, t in edited_texts(bench, row) if t == text), None)
    if chosen is None:
        raise ProjectError(f"--as {choice}", "that edit is no valid record, so it cannot be kept", how)
    return chosen


def _kept(bench: Bench, seq: int, choice: str | None, chosen: int | None, verdict: Mapping[str, Any]) -> dict[str, Any]:
    """Return the kind of the row, and the id and the text of what is kept; of a rejected row only the kind."""
    kept = records.load_row(bench.db, chosen or seq)
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


def erase(folder: Path, identity: str, *, reason: str) -> Summary:
    """Take a row's text out for good; its id, its facts and a tombstone stay, and so do snapshots already written."""
    _need_reason("erase", folder, identity, reason)
    with open_bench(folder) as bench:
        seq = records.find_seq(bench.db, identity)
        body = records.load_row(bench.db, seq)["record"]
        if body is None:
            raise ProjectError(f"record {identity}", "is erased already", command("curate", "trace", folder, identity))
        record = parse_record(body)
        beginnings = _beginnings(record)
        looked = runs.forget_details(bench.db, ("describe", "compare"))  # they show single rows
        renewed = call_texts.forget_asks(bench.db, beginnings)
        is_gone = erasing.erase(bench.db, seq, reason, vector_key=facts.text_key(prompt_text(record)))
        notes = _still_held(bench, seq, beginnings)
    decide(folder)
    if not is_gone:
        notes.append("Another process has the workbench open; the text leaves the disk when that process ends.")
    if renewed:
        notes.append(f"Requests without an answer that quoted it, and are now made anew: {renewed:,}.")
    if looked:
        notes.append("What `curate describe` and `curate compare` had found is gone too, for it showed rows. Run them again.")
    return Summary("erase", 1, 0, {"id": identity}, notes)


def _still_held(bench: Bench, seq: int, beginnings: Sequence[str]) -> list[str]:
    """Where an erased row's text still stands, in sentences with what takes it away."""
    ids, folder = records.ids_of(bench.db), bench.folder
    frozen = _snapshots_with(bench, ids[seq]) if seq in facts.splits_by_seq(bench.db) else []
    revoke = {path: f"{command('curate', 'revoke', folder / path)} --reason …" for path in frozen}
    notes = [f"{path} still holds the text: a snapshot never changes. Write a new one, and: {verb}" for path, verb in revoke.items()]
    notes += [f"{backup.name} is a backup that still holds the text; delete it." for backup in sorted(folder.glob("workbench.db.v*"))]
    if seq in reviews.pushed_seqs(bench.db):
        notes.append(f"Argilla still shows the row: delete record {ids[seq]} there.")
    if grown := records.children_of(bench.db, seq):
        made = ", ".join(ids[child] for child in grown)
        notes.append(f"Rows that were made from it may hold parts of it; look at them with curate trace: {made}.")
    if (folder / "report.html").is_file():
        notes.append(f"report.html may show it until it is written again: {command('curate', 'report', folder)}")
    if called := call_texts.count_holding(bench.db, beginnings):
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


def _snapshots_with(bench: Bench, identity: str) -> list[str]:
    """The snapshots on disk that hold a record."""
    import pyarrow.parquet as pq

    def holds(path: Path) -> bool:
        return any(
            pq.read_table(part, columns=["id"], filters=[("id", "=", identity)], use_threads=False).num_rows
            for part in path.glob("*.parquet")
        )

    return [s["path"] for s in reviews.list_snapshots(bench.db) if holds(bench.folder / s["path"])]


def _call(message: Mapping[str, Any], body: Mapping[str, Any]) -> dict[str, Any]:
    return {"id": message.get("id"), "model": body.get("model"), "stop_reason": message.get("stop_reason"), "usage": message.get("usage")}


def _verdict(verdict: Mapping[str, Any] | None, ids: Mapping[int, str]) -> dict[str, Any] | None:
    """A verdict whose reasons name twins by their ids."""
    if verdict is None:
        return None
    reasons = [{**reason, **({"twin": ids.get(reason["twin"])} if "twin" in reason else {})} for reason in verdict["reasons"]]
    return {**verdict, "reasons": reasons}


def _override(stored: facts.StoredOverride | None, ids: Mapping[int, str]) -> dict[str, Any] | None:
    """Return an override as plain values; the edited record that was chosen by its id."""
    return None if stored is None else {**stored._asdict(), "chosen": ids.get(stored.chosen) if stored.chosen else None}


def _finding(finding: Any, ids: Mapping[int, str]) -> dict[str, Any]:
    values = vars(finding) | {"twin": ids.get(finding.twin) if finding.twin else None}
    return json.loads(json.dumps({k: v for k, v in values.items() if v not in (None, "") and k != "seq"}))  # type: ignore[no-any-return]
