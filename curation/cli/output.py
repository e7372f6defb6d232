"""How summaries and stories look on the screen: numbers first, one fact a line."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from argilla_setup.command_line import as_json as json_of
from argilla_setup.command_line import echo
from argilla_setup.shown import mask_values, visible

if TYPE_CHECKING:
    from curation.stages import StageResult


SHOWN = 10
"""Items of a list that stand on the screen; `--json` has them all."""
LOOKING = ("status", "report", "sign", "verify")
"""Stages through which no rows flow."""


def show_summary(summary: StageResult, as_json: bool) -> None:
    """Print a stage's summary."""
    if as_json:
        print(json_of(mask_values(summary.as_values())))
        return
    flow = f"{summary.rows_in:,} in, {summary.rows_out:,} out"
    if summary.stage in LOOKING:
        flow = "1 row" if summary.rows_in == 1 else f"{summary.rows_in:,} rows"
    _line(f"{summary.stage}: {flow}")
    for name, value in summary.counts.items():
        if name in ("attributes", "last", "shares", "operating_point", "alarms", "text", "stale", "next"):  # the notes have them in words
            continue
        if isinstance(value, Mapping):
            inner = ", ".join(f"{k} {_number(v)}" for k, v in value.items() if v not in (0, None))
            _line(f"  {_words(name)}: {inner or 'none'}")
        elif isinstance(value, list):
            more = f" and {len(value) - SHOWN:,} more" if len(value) > SHOWN else ""
            _line(f"  {_words(name)}: {', '.join(_plain(item) for item in value[:SHOWN]) or 'none'}{more}")
        elif value is not None:
            _line(f"  {_words(name)}: {_number(value)}")
    for note in summary.notes:
        echo(note)


def show_story(story: Mapping[str, Any], as_json: bool) -> None:
    """Print a row's whole story."""
    if as_json:
        print(json_of(story))
        return
    _quote(f"{story['kind']} {story['id']}")
    record = story["record"] or {}
    for message in [*record.get("prompt", ()), *([record["completion"]] if "completion" in record else record.get("completions", ()))]:
        content = visible(message["content"]).replace("\n", "\n    ")  # no line of a row can pass for a line of ours
        print(f"  {visible(message['role'], lines=False)}: {content}")
    if story["erased"]:
        _quote(f"  erased: {story['erased']}")
    for origin in story["origins"]:
        call = f", answer {origin['call']['id']} of {origin['call']['model']}" if origin.get("call") else ""
        cell = f", cell {origin['cell']}" if origin["cell"] else ""
        _quote(f"{origin['how']}: {origin['source'][:12]}, item {origin['item']}{cell}{call}")
        if origin.get("meta"):
            _quote(f"  metadata: {json.dumps(origin['meta'], ensure_ascii=False)[:2000]}")
    for score in story["scores"]:
        old = "" if score["current"] else " (an earlier rubric)"
        _quote(f"score {score['criterion']}: {score['value']} of 5{old}. {score['rationale'] or ''}".rstrip())
    for choice in story["choices"]:
        winner = "tie" if choice["winner"] is None else f"answer {choice['winner'] + 1}"
        _quote(f"judge, shown {choice['shown']}: {winner}")
    for finding in story["findings"]:
        twin = f", twin {finding['twin'][:12]}" if finding.get("twin") else ""
        _quote(f"{finding['stage']}: {finding['kind']}{twin}. {finding.get('evidence', '')}")
    for answer in story["answers"]:
        said = _said(answer["values"], record.get("completion", {}).get("content"))
        _quote(f"{answer['user']} {answer['status']}{' (simulated)' if answer['simulated'] else ''}: {said}")
    if story["override"]:
        choice = f" as {story['override']['choice']}" if story["override"].get("choice") else ""
        _quote(f"override: {story['override']['action']}{choice} by {story['override']['by']}: {story['override']['reason']}")
    verdict = story["verdict"]
    _quote(f"verdict: {verdict['verdict'] if verdict else 'not decided yet (curate decide)'}")
    for reason in verdict["reasons"] if verdict else ():
        twin = f", twin {reason['twin'][:12]}" if reason.get("twin") else ""
        _quote(f"  because of {reason['stage']}: {_words(reason['kind'])}{twin}. {reason.get('evidence', '')}".rstrip())
    if story["split"]:
        _quote(f"split: {story['split'][0]}, in {', '.join(story['snapshots']) or 'no snapshot'}")


def _line(text: str) -> None:
    """Print one line of a summary."""
    echo(visible(text, lines=False))


def _quote(text: str) -> None:
    """Print one line about a row as it is: an address in it is the row's own text, so nothing is masked."""
    print(visible(text, lines=False))


def _said(values: Mapping[str, Any], completion: str | None) -> str:
    """An answer in words; a text that was only handed back unchanged says nothing."""
    shown = {name: ", ".join(value) if isinstance(value, list) else value for name, value in values.items() if value}
    if shown.get("edited_completion", "").strip() == (completion or "").strip():
        shown.pop("edited_completion", None)
    first = {name: place for place, name in enumerate(("verdict", "better", "reasons"))}
    return "; ".join(f"{_words(name)} {shown[name]}" for name in sorted(shown, key=lambda name: (first.get(name, 9), name)))


def _words(name: str) -> str:
    return name.replace("_", " ")


def _number(value: Any) -> str:
    if isinstance(value, Mapping):
        return f"({', '.join(f'{k} {_number(v)}' for k, v in value.items() if v not in (0, None)) or 'none'})"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:,.4g}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def _plain(item: Any) -> str:
    """One item of a list; of an id or a digest the beginning, by which commands take it too."""
    if isinstance(item, Mapping):
        return " ".join(_plain(value) for value in item.values())
    text = str(item)
    return text[:12] if re.fullmatch("[0-9a-f]{64}", text) else text[:100]
