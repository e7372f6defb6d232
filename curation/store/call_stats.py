"""Queries on the calls of a workbench outside the ledger: responses, failures, costs, counts, inputs of requests, and who wrote a row."""

from __future__ import annotations

import re
import sqlite3
import zlib
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import orjson

from curation.requests import Answer, Failure, Request, message_of

CallState = Literal["reserved", "sent", "answered", "failed", "uncertain"]

NANO = 1_000_000_000
_PAGE = 500
_ESCAPED = re.compile(r"\\+u([0-9a-fA-F]{4})")
_NO_WORD = re.compile(r"\\+.|\W+", re.DOTALL)


@dataclass(frozen=True)
class CostRow:
    """The calls of one stage to one model, counted and priced."""

    stage: str
    provider: str
    model: str
    simulated: bool
    price_date: str | None
    calls: int
    answered: int
    failed: int
    uncertain: int
    """Attempts without a received response; charged at their upper bound."""
    input_tokens: int
    output_tokens: int
    thinking_tokens: int
    cache_write_tokens: int
    cache_read_tokens: int
    cost_usd: float
    uncertain_usd: float


class Made(NamedTuple):
    """One origin of a row."""

    seq: int
    how: str
    """imported, generated, paired or edited."""
    source: str
    parent: int | None


class Writer(NamedTuple):
    """A model that answered a call."""

    provider: str
    model: str
    simulated: bool


def find_answers(db: sqlite3.Connection, stage: str, *, simulated: bool | None = None) -> Iterator[Answer]:
    """Yield every response of a stage in request order; read page by page, so that the ledger can be written meanwhile.

    Args:
        db: connection to workbench.db.
        stage: stage that asked.
        simulated: only simulated or only real responses; None for both.
    """
    for row in _pages(db, stage, "state = 'answered' AND settled = 1", simulated=simulated):
        yield Answer(request=_request(row), message=message_of(zlib.decompress(row["response"])))


def list_unsettled_models(db: sqlite3.Connection) -> list[tuple[str, str]]:
    """Return (provider, model) of every response that is stored and not read."""
    rows = db.execute("SELECT DISTINCT provider, model FROM calls WHERE state = 'answered' AND settled = 0")
    return [(row["provider"], row["model"]) for row in rows]


def find_answer(db: sqlite3.Connection, key: str) -> Answer | None:
    """Return the response to one call, a real one before a simulated one; None where there is none."""
    row = db.execute(
        "SELECT * FROM calls WHERE key = ? AND state = 'answered' AND settled = 1 ORDER BY simulated", (bytes.fromhex(key),)
    ).fetchone()
    return Answer(request=_request(row), message=message_of(zlib.decompress(row["response"]))) if row else None


def find_failures(db: sqlite3.Connection, stage: str, *, simulated: bool | None = None) -> Iterator[Failure]:
    """Yield every call of a stage that failed, or whose result is unknown.

    Args:
        db: connection to workbench.db.
        stage: stage that asked.
        simulated: only simulated or only real calls; None for both.
    """
    for row in _pages(db, stage, "state IN ('failed', 'uncertain')", simulated=simulated):
        reason = row["reason"] or "uncertain"
        yield Failure(stage=stage, slot=row["slot"], reason=reason, detail=row["detail"] or "", key=row["key"].hex())


def sum_costs(db: sqlite3.Connection) -> list[CostRow]:
    """Return the costs by stage and model."""
    sums = ", ".join(f"COALESCE(SUM({n}), 0) {n}" for n in ("input_tokens", "output_tokens", "thinking_tokens"))
    cache = ", ".join(f"COALESCE(SUM({n}), 0) {n}" for n in ("cache_write_tokens", "cache_read_tokens"))
    rows = db.execute(
        "SELECT stage, provider, model, simulated, MAX(price_date) price_date, COUNT(*) calls, SUM(state = 'answered') answered, "
        f"SUM(state = 'failed') failed, SUM(lost) uncertain, {sums}, {cache}, SUM(cost_nano) cost_nano, SUM(lost_nano) lost_nano "
        "FROM calls GROUP BY stage, provider, model, simulated ORDER BY stage, model, simulated"
    )
    found = []
    for row in map(dict, rows):
        money = {"cost_usd": row.pop("cost_nano") / NANO, "uncertain_usd": row.pop("lost_nano") / NANO}
        found.append(CostRow(**{**row, "simulated": bool(row["simulated"])}, **money))
    return found


def count_states(db: sqlite3.Connection, stage: str | None = None) -> dict[CallState, int]:
    """Return the number of calls in each state."""
    found = dict(db.execute("SELECT state, COUNT(*) FROM calls WHERE ?1 IS NULL OR stage = ?1 GROUP BY state", (stage,)).fetchall())
    return {state: found.get(state, 0) for state in get_args(CallState)}


def count_refusals(db: sqlite3.Connection, stage: str | None = None) -> dict[str, int]:
    """Return the number of refusals by the provider's category."""
    rows = db.execute(
        "SELECT COALESCE(refusal, 'unnamed'), COUNT(*) FROM calls WHERE stop_reason = 'refusal' AND (?1 IS NULL OR stage = ?1) "
        "GROUP BY 1 ORDER BY 1",
        (stage,),
    )
    return dict(rows.fetchall())


def _pages(db: sqlite3.Connection, stage: str, where: str, *, simulated: bool | None) -> Iterator[sqlite3.Row]:
    last = 0
    while True:
        rows = db.execute(
            f"SELECT * FROM calls WHERE stage = ? AND {where} AND seq > ? AND (? IS NULL OR simulated = ?) ORDER BY seq LIMIT ?",
            (stage, last, simulated, simulated, _PAGE),
        ).fetchall()
        if not rows:
            return
        yield from rows
        last = rows[-1]["seq"]


def _request(row: sqlite3.Row) -> Request:
    names = ("stage", "slot", "attempt", "role")
    return Request(**{name: row[name] for name in names}, body=orjson.loads(zlib.decompress(row["body"])))


def count_holding(db: sqlite3.Connection, texts: Collection[str]) -> Counter[str]:
    """Return the number of calls of each stage whose request or response contains any of the texts."""
    found, wanted = Counter[str](), _skeletons(texts)
    for row in db.execute("SELECT stage, body, response FROM calls"):
        both = [zlib.decompress(part).decode(errors="replace") for part in (row["body"], row["response"]) if part is not None]
        found[row["stage"]] += any(_holds(text, wanted) for text in both)
    # The unary plus leaves out stages without a match.
    return +found


def forget_asks(db: sqlite3.Connection, texts: Collection[str]) -> int:
    """Delete the inputs of unanswered requests that contain any of the texts, so that they are built again; return how many."""
    wanted = _skeletons(texts)
    rows = db.execute(
        "SELECT DISTINCT a.* FROM asks a JOIN calls c ON (c.stage, c.slot, c.attempt) = (a.stage, a.slot, a.attempt) "
        "WHERE c.state IN ('reserved', 'uncertain', 'failed') AND c.settled = 0"
    ).fetchall()
    gone = [(row["stage"], row["slot"], row["attempt"]) for row in rows if _holds(bytes(row["body"]).decode(), wanted)]
    with db:
        db.executemany("DELETE FROM asks WHERE (stage, slot, attempt) = (?, ?, ?)", gone)
    return len(gone)


def _holds(text: str, wanted: Collection[str]) -> bool:
    found = _skeleton(text)
    return any(one in found for one in wanted)


def _skeletons(texts: Collection[str]) -> list[str]:
    return [found for text in texts if (found := _skeleton(text))]


def _skeleton(text: str) -> str:
    """Return letters and digits only: the same text may be nested in JSON, cut, and wrapped at another width."""
    return _NO_WORD.sub("", _ESCAPED.sub(lambda found: chr(int(found[1], 16)), text))


def add_asks(db: sqlite3.Connection, stage: str, asks: Iterable[tuple[str, int, bytes]]) -> None:
    """Add rows of (slot, attempt, body); one whose request was sent stays as it was.

    Args:
        db: connection to workbench.db.
        stage: stage that asks.
        asks: (slot, attempt, body) of each request.
    """
    with db:
        db.execute("BEGIN IMMEDIATE")
        for slot, attempt, body in asks:
            known = db.execute("SELECT 1 FROM calls WHERE stage = ? AND slot = ? AND attempt = ?", (stage, slot, attempt)).fetchone()
            how = "IGNORE" if known else "REPLACE"
            db.execute(f"INSERT OR {how} INTO asks VALUES (?, ?, ?, ?)", (stage, slot, attempt, body))


def load_asks(db: sqlite3.Connection, stage: str) -> dict[tuple[str, int], bytes]:
    """Return (slot, attempt) to body."""
    return {(row["slot"], row["attempt"]): row["body"] for row in db.execute("SELECT * FROM asks WHERE stage = ?", (stage,))}


def open_asks(db: sqlite3.Connection, stage: str) -> list[bytes]:
    """Return the inputs of requests that were sent, or about to be, and have no result: they are sent again unchanged."""
    sql = """
      SELECT DISTINCT a.body, a.slot, a.attempt FROM asks a
      JOIN calls c ON c.stage = a.stage AND c.slot = a.slot AND c.attempt = a.attempt
      WHERE a.stage = ? AND (c.state IN ('reserved', 'sent', 'uncertain') OR (c.state = 'failed' AND c.settled = 0))
      ORDER BY a.slot, a.attempt"""
    return [row["body"] for row in db.execute(sql, (stage,))]


def attempts_by_slot(db: sqlite3.Connection, stage: str) -> dict[str, int]:
    """Return slot to the highest attempt that was sent."""
    sql = "SELECT slot, max(attempt) AS attempt FROM calls WHERE stage = ? GROUP BY slot"
    return {row["slot"]: row["attempt"] for row in db.execute(sql, (stage,))}


def list_made(db: sqlite3.Connection) -> Iterator[Made]:
    """Yield every origin of the rows, a record's first origin first."""
    for row in db.execute("SELECT seq, how, source, parent FROM origins WHERE role = 'row' ORDER BY origin"):
        yield Made(*row)


def writers_by_seq(db: sqlite3.Connection) -> dict[int, set[Writer]]:
    """Return the models that wrote each generated record; of a pair made of candidates, those that wrote the candidates."""
    calls = {
        row["key"].hex(): Writer(row["provider"], row["model"], bool(row["simulated"]))
        # Real calls come last and replace a simulated call with the same key.
        for row in db.execute("SELECT key, provider, model, simulated FROM calls WHERE stage = 'generate' ORDER BY simulated DESC")
    }
    found: defaultdict[int, set[Writer]] = defaultdict(set)
    unknown = Writer("", "an unknown model", False)
    for row in db.execute("SELECT seq, source FROM origins WHERE how = 'generated'"):
        found[row["seq"]].add(calls.get(row["source"], unknown))
    sql = """
      SELECT p.seq AS pair, c.seq AS candidate FROM origins p
      JOIN origins c ON c.how = 'paired' AND c.source = p.source AND c.part > 0 WHERE p.how = 'paired' AND p.part = 0"""
    for row in db.execute(sql).fetchall():
        found[row["pair"]] |= found.get(row["candidate"], set())
    return dict(found)
