"""OASST message trees: one row per tree with nested `replies` (oasst_ready_trees), or one row per message with its `parent_id`.

Each prompt that has replies gives one instruction with the best ranked reply, and one pair for every two replies of different rank
(0 is best). Messages that are deleted, synthetic or failed their review are dropped with everything below them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from curation.errors import RowError
from curation.formats.raw import Row, RowFailure, Rows
from curation.formats.shapes import PairWithFact, turns_of
from curation.records import InstructionRecord, make_pair, parse_record

FLAT = ("message_id", "parent_id", "text", "role")
NOTED = ("message_id", "message_tree_id", "lang", "rank", "review_count", "user_id", "created_date", "model_name")
"""Fields of the reply that become metadata."""
_MOST_REPLIES = 50
"""Maximum number of ranked replies of one prompt that are paired; more would make thousands of pairs of one question."""


def is_tree(row: Mapping[str, Any]) -> bool:
    """Return whether a row is an OASST tree or one message of one."""
    root = row.get("prompt")
    nested = isinstance(root, Mapping) and isinstance(root.get("replies"), list) and "text" in root
    return nested or all(name in row for name in FLAT)


def join_messages(rows: Rows) -> Rows:
    """Yield whole trees: rows that are trees unchanged, single messages joined by `parent_id` at the place of their root."""
    alone: dict[str, tuple[int, Row]] = {}
    for place, row in rows:
        if isinstance(row, RowFailure) or not all(name in row for name in FLAT) or row.get("replies") is not None:
            yield place, row
        elif str(row["message_id"]) in alone:
            yield place, RowFailure(f"message_id: {row['message_id']} is in the file twice", str(row["text"])[:500])
        else:
            alone[str(row["message_id"])] = (place, {**row, "replies": []})
    for place, message in alone.values():
        parent = message["parent_id"]
        if parent in (None, ""):
            continue
        if str(parent) in alone:
            alone[str(parent)][1]["replies"].append(message)
        else:
            yield place, RowFailure(f"parent_id: {parent} is not in the file", str(message["text"])[:500])
    yield from ((place, message) for place, message in alone.values() if message["parent_id"] in (None, ""))


def tree_examples(row: Row) -> Iterator[tuple[InstructionRecord | PairWithFact, dict[str, Any]]]:
    """Yield each example of a tree with the metadata of its (better) reply.

    Raises:
        RowError: the tree has no prompt with a usable reply, or one of its messages is not usable.
    """
    nested = isinstance(row.get("prompt"), Mapping)
    root: Mapping[str, Any] = row["prompt"] if nested else row
    tree = str(row.get("message_tree_id") or root.get("message_tree_id") or root.get("message_id"))
    found = 0
    waiting: list[tuple[Mapping[str, Any], list[dict[str, str]]]] = [(root, [])] if _is_usable(root) else []
    while waiting:
        message, before = waiting.pop(0)
        turns = [*before, *turns_of({"role": message.get("role"), "content": message.get("text")}, "message")]
        replies = message.get("replies")
        if replies is not None and not isinstance(replies, list):
            raise RowError("replies", f"must be a list, not {type(replies).__name__}")
        usable = [reply for reply in replies or () if isinstance(reply, Mapping) and _is_usable(reply)]
        waiting += [(reply, turns) for reply in usable]
        if turns[-1]["role"] == "user" and (answers := _ranked(usable)):
            for value, best in _examples(turns, answers):
                found += 1
                yield value, {name: best[name] for name in NOTED if best.get(name) is not None} | {"message_tree_id": tree}
    if not found:
        raise RowError("tree", "has no prompt with a usable reply")


def _is_usable(message: Mapping[str, Any]) -> bool:
    text = message.get("text")
    return not (message.get("deleted") or message.get("synthetic") or message.get("review_result") is False or not text) and (
        isinstance(text, str)
    )


def _ranked(replies: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return the assistant's replies, the best first; those without a rank last."""
    answers = [reply for reply in replies if reply.get("role") == "assistant"]
    return sorted(answers, key=lambda reply: reply["rank"] if isinstance(reply.get("rank"), int | float) else float("inf"))


def _examples(
    turns: list[dict[str, str]], answers: list[Mapping[str, Any]]
) -> Iterator[tuple[InstructionRecord | PairWithFact, Mapping[str, Any]]]:
    best = answers[0]
    record = parse_record({"kind": "instruction", "prompt": turns, "completion": {"role": "assistant", "content": best["text"]}})
    assert isinstance(record, InstructionRecord)
    yield record, best
    ranked = [answer for answer in answers if isinstance(answer.get("rank"), int | float)][:_MOST_REPLIES]
    for n, better in enumerate(ranked):
        for worse in ranked[n + 1 :]:
            if worse["rank"] > better["rank"] and worse["text"] != better["text"]:
                pair, chosen = make_pair(record.prompt, better["text"], worse["text"])
                yield PairWithFact(pair, chosen), better
