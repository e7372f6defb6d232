"""What was planted beside what the gates caught. Reads the stand-in's log of planted flaws, so it runs after the last gate."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from curation.pipeline.bench import Bench
from curation.store import CallLedger, facts
from curation.store.records import repeated_sources, sources_by_seq

INSTRUCTION_KINDS = (
    "wrong_code",
    "truncated_json",
    "refusal",
    "exact_copy",
    "light_edit",
    "paraphrase",
    "leak_verbatim",
    "leak_reworded",
    "off_brief",
)
KINDS = (*INSTRUCTION_KINDS, "wrong_sibling")
DUPLICATES = ("exact_copy", "light_edit", "paraphrase")
LEAKS = ("leak_verbatim", "leak_reworded")


def score_gates(bench: Bench, log: Path) -> dict[str, Any]:
    """Planted and caught by kind, and clean rows that were flagged.

    A copy, an edit or a paraphrase counts as caught only when dedup saw it, a leak only when the leak screen did, a failed
    answer when it was counted as a failure, and any other flaw when a score or a check took the row out. A clean row counts
    as flagged when anything at all took it out.
    """
    planted, clean = _truth(log)
    row_of, failed = _rows_by_message(bench), _failed_messages(bench)
    findings: dict[int, set[str]] = defaultdict(set)
    for f in filter(lambda f: f.drops, facts.latest_findings(bench.db, ("dedup", "screen"))):  # what the leak judge cleared is not caught
        findings[f.seq].add(f.stage if f.stage == "dedup" else f.kind.split("_")[0])
    dropped = {seq for seq, v in facts.verdicts_by_seq(bench.db).items() if v["verdict"] == "dropped"}
    copies = _second_origins(bench)

    def is_caught(kind: str, message: str, item: int) -> bool:
        if kind in ("truncated_json", "refusal"):
            return message in failed
        seq = row_of.get((message, item))
        if seq is None:
            return message in failed
        if kind in DUPLICATES:
            return "dedup" in findings[seq] or (message, item) in copies
        return "leak" in findings[seq] if kind in LEAKS else seq in dropped

    gates: dict[str, Any] = {}
    for kind in KINDS:
        hits = [is_caught(kind, message, item) for message, item in planted[kind]]
        gates[kind] = {"planted": len(hits), "caught": sum(hits)}
    rows = [row_of[key] for key in clean if key in row_of]
    gates["false_alarms"] = {"flagged": sum(seq in dropped for seq in rows), "clean": len(rows)}
    return gates


def _truth(log: Path) -> tuple[dict[str, list[tuple[str, int]]], list[tuple[str, int]]]:
    planted: dict[str, list[tuple[str, int]]] = defaultdict(list)
    clean = []
    seen = set()
    for line in (log / "truth.jsonl").read_text(encoding="utf-8").splitlines():
        entry = json.loads(line)
        key = (entry["message_id"], entry["item"])
        if key in seen:
            continue
        seen.add(key)
        if entry["flaw"]:
            planted[entry["flaw"]].append(key)
        else:
            clean.append(key)
    return planted, clean


def _messages(bench: Bench) -> Iterator[tuple[str, str]]:
    for answer in CallLedger(bench.db).answers("generate"):
        yield answer.request.key, str(answer.message["id"])


def _rows_by_message(bench: Bench) -> dict[tuple[str, int], int]:
    message_of = dict(_messages(bench))
    return {(message_of[key], item): seq for seq, key, item in sources_by_seq(bench.db, "generated") if key in message_of}


def _failed_messages(bench: Bench) -> set[str]:
    failed = facts.failed_calls(bench.db, "generate")
    return {message for key, message in _messages(bench) if key in failed}


def _second_origins(bench: Bench) -> set[tuple[str, int]]:
    """Answers that only repeated a record which was there already."""
    message_of = dict(_messages(bench))
    return {(message_of[key], item) for key, item in repeated_sources(bench.db) if key in message_of}
