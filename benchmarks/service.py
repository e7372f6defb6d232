"""The questions of the data lead's page, beside the same questions asked of DuckDB over a Parquet file.

    python -m benchmarks.service --rows 100000 --repeat 30 --keep build/bench

Both sides answer the same questions in one run, in turns. The page's side includes the construction of the answer's values. Prints the
median and the 95th percentile of each, their ratio, the time to build the table, and the memory of the process.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.bench_state import make_project
from curation.server.live_rows import LiveRows
from curation.views.row_cache import load_rows
from curation.views.row_table import SHOWN, Query, RowTable, load_table
from curation.views.state import ProjectState
from curation.views.what_if import Cuts
from curation.workspace import open_workspace


@dataclass(frozen=True)
class Question:
    """One question, as the page asks it and as SQL over the Parquet file."""

    name: str
    ours: Callable[[RowTable], object]
    peer: str


COLUMNS = ", ".join(SHOWN)
QUESTIONS = (
    Question(
        "count by condition",
        lambda t: t.count(Query("score < 6 AND verdict = 'dropped'")),
        "SELECT count(*) FROM f WHERE score < 6 AND verdict = 'dropped'",
    ),
    Question(
        "page sorted by score",
        lambda t: t.select(Query(order="-score", limit=50), SHOWN).to_pylist(),
        f"SELECT {COLUMNS} FROM f ORDER BY score DESC NULLS LAST, seq LIMIT 50",
    ),
    Question(
        "page far into a sort",
        lambda t: t.select(Query(order="label", limit=50, offset=50_000), SHOWN).to_pylist(),
        f"SELECT {COLUMNS} FROM f ORDER BY label NULLS LAST, seq LIMIT 50 OFFSET 50000",
    ),
    Question(
        "text search",
        lambda t: t.count(Query(search="subject 77")),
        "SELECT count(*) FROM f WHERE contains(lower(prompt), 'subject 77') OR contains(lower(response), 'subject 77')",
    ),
    Question(
        "counts by label",
        lambda t: t.group("label", Query("verdict = 'to_review'")),
        "SELECT label, count(*) FROM f WHERE verdict = 'to_review' GROUP BY 1 ORDER BY 2 DESC LIMIT 50",
    ),
    Question("histogram of scores", lambda t: t.histogram("score", Query()), "SELECT floor(score * 2), count(*) FROM f GROUP BY 1"),
)


def main() -> None:
    """Build a project, ask both sides and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--repeat", type=int, default=30, help="times each question is asked of each side")
    parser.add_argument("--keep", type=Path, help="folder for the project, which is then built once")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        if args.keep:
            args.keep.mkdir(parents=True, exist_ok=True)
        project = make_project(args.keep or Path(name), args.rows)
        started = time.process_time()
        with open_workspace(project) as workspace:
            arrow = load_table(ProjectState(workspace))
        table = RowTable(arrow)
        print(f"table of {table.rows:,} rows built in {time.process_time() - started:.1f} s of processor time")
        file = Path(name) / "rows.parquet"
        pq.write_table(pa.table(arrow), file)
        peer = duckdb.connect()
        peer.execute(f"CREATE VIEW f AS SELECT * FROM read_parquet('{file}')")
        for question in QUESTIONS:
            compare(question, table, peer, repeat=args.repeat)
        del arrow, table
        LiveRows(project).table()  # keeps a copy of the table
        started = time.process_time()
        with open_workspace(project) as workspace:
            RowTable(load_rows(ProjectState(workspace)))
        print(f"table opened from its copy in {time.process_time() - started:.1f} s of processor time", flush=True)
        live = LiveRows(project)
        live.preview(Cuts())
        taken = sorted(seconds_of(lambda: live.preview(Cuts(threshold=8.0))) for _ in range(5))
        print(f"{'preview of another cut':24} ours {statistics.median(taken) * 1e3:7.1f} ms median, {taken[-1] * 1e3:7.1f} ms worst of 5")
        print(f"largest memory of the process: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:,.0f} MB")


def compare(question: Question, table: RowTable, peer: duckdb.DuckDBPyConnection, *, repeat: int) -> None:
    """Ask both sides in turns and print their times and the ratio of the medians.

    Args:
        question: what is asked.
        table: our side.
        peer: DuckDB over the Parquet file.
        repeat: times each side is asked.
    """
    ours, theirs = list[float](), list[float]()
    for _ in range(repeat):
        ours.append(seconds_of(lambda: question.ours(table)))
        theirs.append(seconds_of(lambda: peer.execute(question.peer).fetchall()))
    found = [
        f"{statistics.median(t) * 1e3:7.1f} ms median, {sorted(t)[int(0.95 * (len(t) - 1))] * 1e3:7.1f} ms p95" for t in (ours, theirs)
    ]
    ratio = statistics.median(ours) / statistics.median(theirs)
    print(f"{question.name:24} ours {found[0]}   DuckDB over Parquet {found[1]}   ratio {ratio:.2f}", flush=True)


def seconds_of(call: Callable[[], object]) -> float:
    """Return the wall seconds of a call."""
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
