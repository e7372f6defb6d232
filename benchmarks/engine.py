"""The search engine alone: time of each kind of query at 50,000 and at 250,000 records, and its memory.

    python -m benchmarks.engine [--records 50000 --records 250000] [--rounds 40] [--folder build/engine]

The index is filled in bulk with made-up records (a prompt and a completion of some 60 words in all from a Zipf vocabulary of 60,000,
five metadata values, three suggestions, a 384-d vector, answers of twenty people to a tenth of the records), and the questions are
those the page and the SDK ask, put straight to the functions that the server's adapter calls. Every question is another one each time.
"""

from __future__ import annotations

import argparse
import resource
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from argilla_setup.engine.documents import RecordDoc, ResponseDoc, SuggestionDoc
from argilla_setup.engine.filters import All, Range, Scope, Terms
from argilla_setup.engine.index import Index
from argilla_setup.engine.search import Query, Sort, count_responses, count_statuses, count_terms, find_extent, search, search_similar

QUESTIONS = {"verdict": "label_selection", "stars": "rating", "edited": "text"}
DIMENSIONS = 384
BATCH = 500
USERS = [f"user-{n}" for n in range(20)]
VOCABULARY = 60_000


def make_records(count: int, *, seed: int = 0) -> Iterator[list[RecordDoc]]:
    """Yield batches of records as the server passes them."""
    draw = np.random.default_rng(seed)
    vocabulary = np.array([f"{'bcdfgklmnprstvz'[n % 15]}{'aeiou'[n // 15 % 5]}{n:x}" for n in range(VOCABULARY)])
    weights = 1 / np.arange(1, VOCABULARY + 1) ** 1.05
    weights /= weights.sum()
    for start in range(0, count, BATCH):
        size = min(BATCH, count - start)
        words = draw.choice(vocabulary, size=(size, 60), p=weights)
        vectors = draw.standard_normal((size, DIMENSIONS)).astype(np.float32)
        scores, numbers = draw.uniform(0, 10, (size, 3)), draw.integers(0, 1000, (size, 4))
        yield [make_record(start + n, words[n], vectors[n], scores[n], numbers[n]) for n in range(size)]


def make_record(n: int, words: np.ndarray, vector: np.ndarray, scores: np.ndarray, numbers: np.ndarray) -> RecordDoc:
    """Return one record; every tenth has responses."""
    people = USERS[: 1 + n % 3] if n % 10 == 0 else []
    verdict = ("approve", "reject")[int(numbers[0]) % 2]
    return RecordDoc(
        id=f"{n:032x}",
        fields={"prompt": " ".join(words[:20]), "completion": " ".join(words[20:])},
        status="completed" if len(people) == 3 else "pending",
        external_id=f"x{n}",
        inserted_at=1_700_000_000_000_000 + n,
        updated_at=1_700_000_000_000_000 + int(numbers[1]) * 1000,
        metadata={
            "score": float(scores[0]),
            "clarity": float(scores[1]),
            "topic": f"t{int(numbers[2]) % 40}",
            "level": int(numbers[3]) % 5,
            "source": "made",
        },
        suggestions=[
            SuggestionDoc("edited", "text", agent="judge"),
            SuggestionDoc("verdict", verdict, score=float(scores[2]) / 10),
            SuggestionDoc("stars", int(numbers[1]) % 5 + 1),
        ],
        responses=[
            ResponseDoc(f"{n}-{user}", user, "submitted", {"verdict": verdict, "stars": int(numbers[2]) % 5 + 1}) for user in people
        ],
        vectors={"v": vector.tolist()},
    )


def make_questions(count: int) -> dict[str, Callable[[Index, int], object]]:
    """Return the queries by name; the number makes each repetition a different query."""
    draw = np.random.default_rng(1)
    words = [word for batch in make_records(BATCH) for record in batch for word in str(record.fields["prompt"]).split()]
    vectors = draw.standard_normal((64, DIMENSIONS)).astype(np.float32)

    def pending(n: int) -> Terms:
        return Terms(Scope("response", user=USERS[n % 20]), ("pending",))

    def score(n: int) -> Range:
        return Range(Scope("metadata", "score"), ge=n % 9, le=n % 9 + 1)

    def page(**asked: object) -> Callable[[Index], object]:
        return lambda index: search(index, "d", limit=10, **asked)  # type: ignore[arg-type]

    def ask(make: Callable[[int], Callable[[Index], object]]) -> Callable[[Index, int], object]:
        return lambda index, n: make(n)(index)

    return {
        "next record (pending for me, my order)": ask(lambda n: page(query=Query(filter=All((pending(n),))), user=USERS[n % 20])),
        "page 100 of my queue": ask(lambda n: page(query=Query(filter=All((pending(n),))), user=USERS[n % 20], offset=1000)),
        "search: one frequent word": ask(lambda n: page(query=Query(words[n % 3]))),
        "search: one word": ask(lambda n: page(query=Query(words[(37 * n) % len(words)]))),
        "search: two words": ask(lambda n: page(query=Query(f"{words[31 * n % len(words)]} {words[7 * n % len(words)]}"))),
        "search: a | b -c": ask(lambda n: page(query=Query(f"{words[31 * n % len(words)]} | {words[7 * n % len(words)]} -{words[n]}"))),
        "search: phrase": ask(lambda n: page(query=Query(f'"{words[20 * n % 5000]} {words[20 * n % 5000 + 1]}"'))),
        "search: near words ~3": ask(lambda n: page(query=Query(f'"{words[20 * n % 5000]} {words[20 * n % 5000 + 2]}"~3'))),
        "search: a word near itself ~3": ask(lambda n: page(query=Query(f'"{words[n % 3]} {words[n % 3]}"~3'))),
        "search: prefix": ask(lambda n: page(query=Query(f"{words[37 * n % len(words)][:3]}*"))),
        "search: near spelling": ask(lambda n: page(query=Query(f"{words[37 * n % len(words)]}x~2"))),
        "search, mine, pending": ask(lambda n: page(query=Query(words[37 * n % len(words)], filter=pending(n)), user=USERS[n % 20])),
        "filter: metadata range": ask(lambda n: page(query=Query(filter=score(n)), user=USERS[n % 20])),
        "filter: metadata range of half": ask(lambda n: page(query=Query(filter=Range(Scope("metadata", "score"), ge=5 + n / 1000)))),
        "filter: metadata term": ask(lambda n: page(query=Query(filter=Terms(Scope("metadata", "topic"), (f"t{n % 40}",))))),
        "filter: suggestion and status": ask(
            lambda n: page(
                query=Query(
                    filter=All((Terms(Scope("suggestion", "verdict"), ("approve",)), Terms(Scope("record", "status"), ("pending",))))
                )
            )
        ),
        "filter: response": ask(lambda n: page(query=Query(filter=Terms(Scope("response", "verdict", user=USERS[n % 3]), ("approve",))))),
        "sort: metadata": ask(
            lambda n: page(query=Query(), sort=[Sort(Scope("metadata", ("score", "clarity")[n % 2]), descending=n % 3 == 0)])
        ),
        "sort: metadata, filtered": ask(lambda n: page(query=Query(filter=score(n)), sort=[Sort(Scope("metadata", "clarity"))])),
        "sort: metadata, my pending": ask(
            lambda n: page(query=Query(filter=pending(n)), sort=[Sort(Scope("metadata", "score"), descending=True)])
        ),
        "sort: inserted at": ask(lambda n: page(query=Query(), sort=[Sort(Scope("record", "inserted_at"), descending=True)])),
        "sort: my rating": ask(lambda n: page(query=Query(), sort=[Sort(Scope("response", "stars", user=USERS[n % 3]))])),
        "sort: suggestion score": ask(lambda n: page(query=Query(), sort=[Sort(Scope("suggestion", "verdict", "score"))])),
        "sort: my status": ask(lambda n: page(query=Query(), sort=[Sort(Scope("response", user=USERS[n % 3]))])),
        "sort: score, then time": ask(
            lambda n: page(query=Query(), sort=[Sort(Scope("metadata", "score")), Sort(Scope("record", "inserted_at"), descending=True)])
        ),
        "sort: metadata, of a rare word": ask(lambda n: page(query=Query(words[2000 + n]), sort=[Sort(Scope("metadata", "score"))])),
        "similar": ask(lambda n: lambda index: search_similar(index, "d", vector="v", value=vectors[n % 64], query=Query(), limit=50)),
        "similar, filtered": ask(
            lambda n: (
                lambda index: search_similar(
                    index,
                    "d",
                    vector="v",
                    value=vectors[n % 64],
                    query=Query(filter=Range(Scope("metadata", "score"), ge=5)),
                    limit=50,
                )
            )
        ),
        "similar, with text": ask(
            lambda n: lambda index: search_similar(index, "d", vector="v", value=vectors[n % 64], query=Query(words[n % 50]), limit=50)
        ),
        "submit (write)": ask(lambda n: lambda index: submit(index, n, count)),
        "progress": ask(lambda n: lambda index: (count_statuses(index, "d"), count_responses(index, "d", user=USERS[n % 20]))),
        "metrics": ask(lambda n: lambda index: (count_terms(index, "d", metadata="topic"), find_extent(index, "d", metadata="score"))),
    }


def submit(index: Index, n: int, count: int) -> None:
    """Return a response as the server writes it."""
    record = f"{(n * 7919 + 1) % count:032x}"
    index.set_status(record, "pending")
    index.put_response("d", record, ResponseDoc(f"new-{n}", USERS[n % 20], "submitted", {"verdict": "approve", "stars": 3}))


def measure(index: Index, count: int, *, rounds: int) -> list[tuple[str, float, float, float]]:
    """Return median and p95 in milliseconds of each query, and its median processor time; the first of each is not counted."""
    found = []
    for name, ask in make_questions(count).items():
        ask(index, 0)
        took, used = [], []
        for n in range(1, rounds + 1):
            began, cpu = time.perf_counter(), time.process_time()
            ask(index, n)
            took.append(1000 * (time.perf_counter() - began))
            used.append(1000 * (time.process_time() - cpu))
        found.append((name, float(np.percentile(took, 50)), float(np.percentile(took, 95)), float(np.percentile(used, 50))))
        print(f"| {name} | {found[-1][1]:.1f} | {found[-1][2]:.1f} | {found[-1][3]:.1f} |", flush=True)
    return found


def fill(folder: Path, count: int) -> None:
    """Write the records in a separate process, so that the measured memory is that of the queries."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    index = Index(folder / "search.db")
    index.create_dataset("d", fields=["prompt", "completion"], questions=QUESTIONS)
    cpu, began = 0.0, time.perf_counter()
    for batch in make_records(count):
        start = time.process_time()
        index.put_records("d", batch)
        cpu += time.process_time() - start
    print(f"{count} records written in {time.perf_counter() - began:.0f} s, {1000 * cpu / count:.3f} ms of processor time each", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, action="append")
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--folder", type=Path, default=Path("build/engine"))
    parser.add_argument("--keep", action="store_true", help="use the index of an earlier run")
    given = parser.parse_args()
    for count in given.records or [50_000, 250_000]:
        folder = given.folder / str(count)
        if not (given.keep and folder.exists()):
            filling = get_context("spawn").Process(target=fill, args=(folder, count))
            filling.start()
            filling.join()
            assert filling.exitcode == 0
        size = sum(path.stat().st_size for path in folder.iterdir()) / 2**20
        print(f"\n{count} records, {size:.0f} MB on disk\n\n| question | p50 ms | p95 ms | processor, p50 ms |\n|---|---|---|---|")
        measure(Index(folder / "search.db"), count, rounds=given.rounds)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024 * (1 if sys.platform == "linux" else 1 / 1024)
        print(f"\npeak memory of this process so far {peak:.0f} MB\n")


if __name__ == "__main__":
    main()
