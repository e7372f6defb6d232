"""Two rows as the trainer sees them: which text has a loss and which has none, for `train preflight --show`.

The tokens are those that TRL makes: the prompt with the generation prompt, the whole conversation, and a loss after their common prefix
(`tests/training/test_show.py` compares them with TRL's labels). The text of rows is untrusted, so it is escaped before colors are added.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from argilla_setup.shown import mask_secrets, visible
from training.chat import Row, common_prefix, name_rows
from training.config import RunFile
from training.data import open_snapshot, read_rows, resolve_snapshot
from training.model import load_tokenizer
from training.records import PreflightReport

MOST_CHARACTERS = 1500
"""Characters of a masked or trained part that are shown; the middle of a longer one is left out."""
DIM, BOLD, RESET = "\x1b[2m", "\x1b[1;32m", "\x1b[0m"
OPEN, CLOSE = "[[", "]]"
"""Marks around trained text without colors."""


@dataclass(frozen=True)
class ShownAnswer:
    """One conversation of a row: a prompt with one of its answers."""

    name: str
    """Column of the answer."""
    masked: str
    """Text without a loss."""
    trained: str
    """Text with a loss, the end of turn included."""
    tokens: tuple[int, int]
    """Tokens of both parts, in this order."""


def read_shown(row: Row, tokenizer: Any, *, answers: Sequence[str], max_length: int) -> list[ShownAnswer]:
    """Return each conversation of a row in its masked and its trained part.

    Args:
        row: prompt and answers as messages.
        tokenizer: the base model's, with its chat template.
        answers: the columns that hold an answer.
        max_length: tokens after which the trainer cuts.
    """
    head = tokenizer.apply_chat_template(row["prompt"], tokenize=False, add_generation_prompt=True)
    wholes = [tokenizer.apply_chat_template([*row["prompt"], *row[answer]], tokenize=False) for answer in answers]
    prompt, *read = tokenizer([head, *wholes], add_special_tokens=False)["input_ids"]
    found = []
    for name, ids in zip(answers, read, strict=True):
        shared, kept = common_prefix(prompt, ids), ids[:max_length]
        parts = [tokenizer.decode(part) for part in (kept[:shared], kept[shared:])]
        found.append(ShownAnswer(name, parts[0], parts[1], (len(kept[:shared]), len(kept[shared:]))))
    return found


def show_rows(run: RunFile, report: PreflightReport, *, colors: bool, rows: int = 2) -> str:
    """Return the first training rows that are not left out, with their masked and trained text apart.

    Args:
        run: the run file.
        report: its preflight.json.
        colors: whether the screen shows colors; otherwise trained text is between [[ and ]].
        rows: number of rows.
    """
    snapshot = open_snapshot(run, resolve_snapshot(run.snapshot, run.trusted_keys), kind=run.method.rows)
    gone = set(report.lengths["train"].left_out)
    kept = [row for row in read_rows(snapshot, "train", system=run.system) if str(row["id"]) not in gone]
    tokenizer, method = load_tokenizer(run.base_model, run.chat_template_kwargs), run.method
    weights, lines = report.snapshot.class_weights, []
    marks = "in bold green" if colors else f"between {OPEN} and {CLOSE}"
    for row in kept[:rows]:
        for answer in read_shown(row, tokenizer, answers=method.answers, max_length=run.settings.max_length):
            weight = f", weight {weights[str(row['label'])]:g}" if str(row.get("label")) in weights else ""
            masked, trained = answer.tokens
            lines.append(f"row {name_rows([str(row['id'])])}, {answer.name}: {masked} tokens masked, {trained} trained ({marks}){weight}")
            lines.append(_paint(answer, colors=colors))
    return "\n".join(lines)


def _paint(answer: ShownAnswer, *, colors: bool) -> str:
    masked, trained = (_escape(text) for text in (answer.masked, answer.trained))
    text = f"{DIM}{masked}{RESET}{BOLD}{trained}{RESET}" if colors else f"{masked}{OPEN}{trained}{CLOSE}"
    # Colors end at a line's end on some terminals, so each line starts its own.
    indented, color = [], ""
    for line in text.split("\n"):
        indented.append(f"  {color}{line}")
        last = max((line.rfind(code), code) for code in (DIM, BOLD, RESET)) if colors else (-1, "")
        color = color if last[0] < 0 else "" if last[1] == RESET else last[1]
    return "\n".join(indented)


def _escape(text: str) -> str:
    """Return a part of a row for the screen, without its middle if it is long."""
    if len(text) > MOST_CHARACTERS:
        half = MOST_CHARACTERS // 2
        text = f"{text[:half]} [... {len(text) - 2 * half} characters ...] {text[-half:]}"
    return visible(mask_secrets(text))
