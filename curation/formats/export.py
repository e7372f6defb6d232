"""Write a snapshot's split as JSONL, JSON, CSV or Parquet for people who train elsewhere.

What is written can be read back by `read_rows` as the same records; the id and the label travel along.
"""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import unquote, urlsplit

import orjson

from curation.errors import ProjectError, RowError

if TYPE_CHECKING:
    import pyarrow as pa

ExportFormat = Literal["alpaca", "sharegpt", "messages", "preference", "kto"]
_SHAREGPT = {"system": "system", "user": "human", "assistant": "gpt"}
_BATCH = 10_000

Row = Mapping[str, Any]


def check_target(target: str | Path, *, force: bool = False) -> Path:
    """Return the local file that an export may write.

    Args:
        target: a path, or a file:// address.
        force: whether a file that exists may be replaced.

    Raises:
        ProjectError: another kind of address, an ending that names no format, a folder, or a file that exists.
    """
    text = str(target)
    if text.startswith("file://"):
        text = unquote(urlsplit(text).path)
    elif scheme := re.match(r"([A-Za-z][A-Za-z0-9+.-]+):/", text):
        fact = f"has the scheme {scheme[1]}, and export writes local files only"
        raise ProjectError(f"--out {target}", fact, "write a local file and copy it there with the tool of that store")
    path = Path(text)
    if path.suffix.lower() not in ENDINGS:
        raise ProjectError(
            f"--out {path}", "has no ending that names a format", f"end it in {', '.join(ENDINGS)}; --format shapes the rows"
        )
    if path.is_dir():
        raise ProjectError(f"--out {path}", "is a folder", f"name a file in it, for example {path / 'train.jsonl'}")
    if path.exists() and not force:
        raise ProjectError(f"--out {path}", "exists", "name another file, or add --force to replace it")
    return path


def write_rows(
    table: pa.Table,
    path: Path,
    format: ExportFormat,
    *,
    system_instruction: bool | None = False,
    columns: Mapping[str, Mapping[str, Any]] | None = None,
) -> int:
    """Write the rows of a split to `path`, aside first and then renamed; the ending decides the format. Returns their number.

    Pairs can be written as preference (prompt, chosen, rejected as messages), sharegpt (conversations, chosen, rejected) or
    alpaca (instruction, input, chosen, rejected); instructions as alpaca, sharegpt or messages. As kto (prompt, completion and label,
    which is true for a good answer) a pair makes two lines and an instruction one; a class is then in the column `class`.
    CSV has no lists, so there messages are JSON text.

    Args:
        system_instruction: alpaca's instruction is the system message and its input the user's, as in `read_rows`; None for
            yes if every row has a system message.
        columns: further columns of each record, by its id.

    Raises:
        ProjectError: the rows cannot have this shape, or a further column has the name of one of the shape's.
    """
    is_pairs = "chosen" in table.column_names
    if system_instruction is None:
        system_instruction = all(row["prompt"][0]["role"] == "system" for row in _rows(table.select(["prompt"])))
    convert = None if format == "kto" else _converter(format, is_pairs=is_pairs, system_instruction=system_instruction)

    def lines() -> Iterator[dict[str, Any]]:
        for row in _rows(table):
            more = columns.get(row["id"], {}) if columns else {}
            for line in _feedback(row) if convert is None else (_converted(row, convert, path),):
                if taken := line.keys() & more.keys():
                    fact = f"is a column of the {format} shape too"
                    raise ProjectError(f"--columns {min(taken)}", fact, "leave it out, or rename the column and import again")
                yield {**line, **more}

    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        ENDINGS[path.suffix.lower()](lines, aside)
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)
    return int(table.num_rows)


Lines = Callable[[], Iterator[dict[str, Any]]]


def _write_jsonl(lines: Lines, path: Path) -> None:
    with path.open("wb") as file:
        for line in lines():
            file.write(orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE))


def _write_json(lines: Lines, path: Path) -> None:
    with path.open("wb") as file:
        for number, line in enumerate(lines()):
            file.write((b",\n" if number else b"[\n") + orjson.dumps(line))
        file.write(b"\n]\n" if file.tell() else b"[]\n")


def _write_csv(lines: Lines, path: Path) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, _names(lines), restval="")
        writer.writeheader()
        for line in lines():
            writer.writerow(
                {name: orjson.dumps(value).decode() if isinstance(value, list | dict) else value for name, value in line.items()}
            )


def _write_parquet(lines: Lines, path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    empty, rows = dict.fromkeys(_names(lines)), lines()
    # A column of which some batches have no value, or of metadata that was typed loosely, gets the type that holds them all.
    parts = []
    while batch := [empty | line for line in islice(rows, _BATCH)]:
        try:
            parts.append(pa.Table.from_pylist(batch))
        except (pa.ArrowInvalid, pa.ArrowTypeError):
            parts.append(pa.Table.from_pylist([_as_texts(line, batch) for line in batch]))
    try:
        table = pa.concat_tables(parts, promote_options="permissive") if parts else pa.table({})
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise ProjectError(str(path), f"its columns have several types ({error})", "export as JSONL, or with fewer --columns") from error
    pq.write_table(table, path, compression="zstd")


def _as_texts(line: dict[str, Any], batch: list[dict[str, Any]]) -> dict[str, Any]:
    """The line with every column as text whose values in this batch have more than one type."""
    mixed = {name for name in line if len({type(other[name]) for other in batch} - {type(None)}) > 1}
    return {name: value if name not in mixed or value is None or isinstance(value, str) else orjson.dumps(value).decode()
            for name, value in line.items()}  # fmt: skip


def _names(lines: Lines) -> list[str]:
    """Every column that any line has, in the order they first appear."""
    names: dict[str, None] = {}
    for line in lines():
        names |= dict.fromkeys(line)
    return list(names)


ENDINGS: Mapping[str, Callable[[Lines, Path], None]] = {
    ".jsonl": _write_jsonl, ".json": _write_json, ".csv": _write_csv, ".parquet": _write_parquet,
}  # fmt: skip
"""What writes a file, by its ending."""


def _converter(format: ExportFormat, *, is_pairs: bool, system_instruction: bool) -> Callable[[Row], dict[str, Any]]:
    if format == "preference" and not is_pairs:
        raise ProjectError("format preference", "needs pairs, and these are instructions", "export as alpaca, sharegpt or messages")
    if format == "messages" and is_pairs:
        raise ProjectError("format messages", "holds one answer, and these are pairs", "export as preference, sharegpt or alpaca")
    if format == "alpaca":
        return lambda row: _alpaca(row, system_instruction)
    return {"sharegpt": _sharegpt, "messages": _messages, "preference": _preference}[format]


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
