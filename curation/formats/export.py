"""Write a snapshot's split as JSONL for people who train elsewhere.

What is written can be read back by `read_rows` as the same records; the id and the label travel along.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import orjson

from curation.errors import ProjectError, RowError

if TYPE_CHECKING:
    import pyarrow as pa

ExportFormat = Literal["alpaca", "sharegpt", "messages", "preference", "kto"]
_SHAREGPT = {"system": "system", "user": "human", "assistant": "gpt"}
_BATCH = 10_000

Row = Mapping[str, Any]


def write_rows(table: pa.Table, path: Path, format: ExportFormat, *, system_instruction: bool | None = False) -> int:
    """Write the rows of a split to `path`, aside first and then renamed; returns their number.

    Pairs can be written as preference (prompt, chosen, rejected as messages), sharegpt (conversations, chosen, rejected) or
    alpaca (instruction, input, chosen, rejected); instructions as alpaca, sharegpt or messages. As kto (prompt, completion and label,
    which is true for a good answer) a pair makes two lines and an instruction one; a class is then in the column `class`.

    Args:
        system_instruction: alpaca's instruction is the system message and its input the user's, as in `read_rows`; None for
            yes if every row has a system message.
    """
    is_pairs = "chosen" in table.column_names
    if system_instruction is None:
        system_instruction = all(row["prompt"][0]["role"] == "system" for row in _rows(table.select(["prompt"])))
    convert = _converter(format, is_pairs=is_pairs, system_instruction=system_instruction)
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.partial")
    try:
        with aside.open("wb") as file:
            for row in _rows(table):
                for line in _feedback(row) if format == "kto" else (_converted(row, convert, path),):
                    file.write(orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE))
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)
    return int(table.num_rows)


def _converter(format: ExportFormat, *, is_pairs: bool, system_instruction: bool) -> Callable[[Row], dict[str, Any]]:
    if format == "preference" and not is_pairs:
        raise ProjectError("format preference", "needs pairs, and these are instructions", "export as alpaca, sharegpt or messages")
    if format == "messages" and is_pairs:
        raise ProjectError("format messages", "holds one answer, and these are pairs", "export as preference, sharegpt or alpaca")
    if format == "alpaca":
        return lambda row: _alpaca(row, system_instruction)
    return {"sharegpt": _sharegpt, "messages": _messages, "preference": _preference, "kto": dict}[format]


def _rows(table: pa.Table) -> Iterator[Row]:
    for batch in table.to_batches(max_chunksize=_BATCH):
        yield from batch.to_pylist()


def _converted(row: Row, convert: Callable[[Row], dict[str, Any]], path: Path) -> dict[str, Any]:
    try:
        body = convert(row)
    except RowError as error:
        raise ProjectError(str(path), f"record {row['id'][:12]}: {error.what} {error.fact}", "export as sharegpt or messages") from error
    return body | {"id": row["id"]} | ({"label": row["label"]} if row.get("label") is not None else {})


def _feedback(row: Row) -> Iterator[dict[str, Any]]:
    """Yield a row's answers as TRL's KTOTrainer reads them."""
    named = {"id": row["id"], **({"class": row["label"]} if row.get("label") is not None else {})}
    for name, good in (("chosen", True), ("rejected", False)) if "chosen" in row else (("completion", True),):
        yield {"prompt": row["prompt"], "completion": row[name], "label": good, **named}


def _messages(row: Row) -> dict[str, Any]:
    return {"messages": [*row["prompt"], *row["completion"]]}


def _preference(row: Row) -> dict[str, Any]:
    return {name: row[name] for name in ("prompt", "chosen", "rejected")}


def _sharegpt(row: Row) -> dict[str, Any]:
    def turn(message: Row) -> dict[str, str]:
        return {"from": _SHAREGPT[message["role"]], "value": message["content"]}

    if "chosen" in row:
        rivals = {name: turn(row[name][0]) for name in ("chosen", "rejected")}
        return {"conversations": [turn(m) for m in row["prompt"]], **rivals}
    return {"conversations": [turn(m) for m in (*row["prompt"], *row["completion"])]}


def _alpaca(row: Row, system_instruction: bool) -> dict[str, Any]:
    turns = list(row["prompt"])
    system = turns.pop(0)["content"] if turns[0]["role"] == "system" else None
    roles = [turn["role"] for turn in turns]
    if roles != ["user", "assistant"] * (len(turns) // 2) + ["user"]:
        raise RowError("prompt", "does not alternate between user and assistant, which alpaca cannot say")
    history = [[turns[i]["content"], turns[i + 1]["content"]] for i in range(0, len(turns) - 1, 2)]
    asked = turns[-1]["content"]
    if system_instruction and system is None:
        raise RowError("prompt", "has no system message to write as the instruction")
    body = {"instruction": system, "input": asked} if system_instruction else {"instruction": asked, "input": ""}
    if "chosen" in row:
        body |= {name: row[name][0]["content"] for name in ("chosen", "rejected")}
    else:
        body["output"] = row["completion"][0]["content"]
    extra = {"history": history} if history else {}
    return body | extra | ({"system": system} if system and not system_instruction else {})
