"""Cost of storing every response: `ask` with its ledger compared with a bare asyncio loop over the same client, at the same concurrency.

    python benchmarks/teacher.py [--calls 10000] [--concurrency 8 32 64] [--rounds 5] [--delay 0.05]

A server in a process of its own answers each call after the delay. Both ways run in turns in one process; ours commits every response to a
real workbench.db (WAL, synchronous=FULL) before it is read. Ratios are what to look at; the bare loop is given twice: with the SDK's own
client and `messages.create`, as anybody would write it, and sending through our clients as `ask` does. Processor time is this process's
alone. Prints one JSON object.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import psutil

from curation.config.models import ModelSpec
from curation.models import CallContext, ask, open_model
from curation.requests import Request
from curation.store.calls import CallLedger
from curation.store.database import open_store

MODEL = "claude-sonnet-5-5"
TEXT = json.dumps({"examples": [{"instruction": "Say how the tide turns.", "input": "", "output": "It turns twice a day. " * 30}]})
ANSWER = {
    "id": "msg_1",
    "type": "message",
    "role": "assistant",
    "model": MODEL,
    "content": [{"type": "text", "text": TEXT}],
    "stop_reason": "end_turn",
    "stop_sequence": None,
    "usage": {"input_tokens": 900, "output_tokens": 200},
}


class Answering(asyncio.Protocol):
    """Minimal HTTP server: complete requests in, the same response out after the delay."""

    delay = 0.05
    body = json.dumps(ANSWER).encode()
    reply = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(body) + body

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport, self.waiting = transport, b""

    def data_received(self, data: bytes) -> None:
        self.waiting += data
        while (end := self.waiting.find(b"\r\n\r\n")) >= 0:
            head = self.waiting[:end].lower()
            length = int(head.split(b"content-length:")[1].split(b"\r\n")[0])
            if len(self.waiting) < end + 4 + length:
                return
            self.waiting = self.waiting[end + 4 + length :]
            asyncio.get_running_loop().call_later(self.delay, self._answer)

    def _answer(self) -> None:
        if not self.transport.is_closing():
            self.transport.write(self.reply)  # type: ignore[attr-defined]


async def serve(delay: float) -> None:
    Answering.delay = delay
    server = await asyncio.get_running_loop().create_server(Answering, "127.0.0.1", 0, backlog=1024)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


@contextmanager
def serving(delay: float) -> Iterator[str]:
    """Yield the server in a separate process."""
    process = subprocess.Popen([sys.executable, __file__, "--serve", "--delay", str(delay)], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield f"http://127.0.0.1:{int(process.stdout.readline())}"
    finally:
        process.kill()
        process.wait()


def body_of(number: int) -> dict[str, Any]:
    """Return a request of the size that a teacher receives."""
    system = "You write training examples for sailors who learn the tides. " * 50
    wanted = {"format": {"type": "json_schema", "schema": {"type": "object"}}}
    user = f"Example {number}: difficulty basic, persona beginner, format list. " * 10
    system_part = [{"type": "text", "text": system}]
    return {
        "model": MODEL,
        "max_tokens": 1024,
        "system": system_part,
        "messages": [{"role": "user", "content": user}],
        "output_config": wanted,
    }


Seconds = tuple[float, float]
"""Wall seconds, and processor seconds of this process."""


def now() -> Seconds:
    return time.perf_counter(), time.process_time()


def since(began: Seconds) -> Seconds:
    wall, processor = now()
    return wall - began[0], processor - began[1]


def time_bare(bodies: list[dict[str, Any]], client: Any, send: Callable[[dict[str, Any]], Awaitable[Any]], *, concurrency: int) -> Seconds:
    """Run a loop that stores nothing."""

    async def run() -> None:
        waiting = iter(bodies)

        async def work() -> None:
            for body in waiting:
                await send(body)

        await asyncio.gather(*(work() for _ in range(concurrency)))
        await client.close()

    began = now()
    asyncio.run(run())
    return since(began)


def time_ours(bodies: list[dict[str, Any]], *, folder: Path, spec: ModelSpec, start: int) -> Seconds:
    """Run `ask`, which commits every response before it is read."""
    requests = [Request(stage="generate", slot=f"instruction:{start + n:05d}", role="teacher", body=b) for n, b in enumerate(bodies)]
    with open_store(folder) as db:
        began = now()
        model = open_model(spec, environ={"ANTHROPIC_API_KEY": "k"})
        summary = ask(requests, CallContext(model=model, spec=spec, ledger=CallLedger(db), budget_usd=1e6, simulated=False))
        seconds = since(began)
    assert summary.answered == len(bodies) and summary.failed == 0, summary
    return seconds


def time_commit(folder: Path) -> float:
    """Return the median milliseconds of a hundred durable commits on this disk, the minimum that a call of ours waits."""
    took = []
    (folder / "disk").mkdir(exist_ok=True)
    with open_store(folder / "disk") as db:
        db.execute("CREATE TABLE IF NOT EXISTS written (text TEXT)")
        for _ in range(100):
            db.execute("BEGIN IMMEDIATE")
            db.execute("INSERT INTO written VALUES (?)", ("x" * 1000,))
            began = time.perf_counter()
            db.execute("COMMIT")
            took.append(time.perf_counter() - began)
    return round(statistics.median(took) * 1000, 2)


def compare(address: str, *, calls: int, concurrency: int, rounds: int, folder: Path) -> dict[str, Any]:
    """Run all three ways in turns; the order rotates between rounds."""
    import anthropic

    spec = ModelSpec(model=MODEL, base_url=address, concurrency=concurrency)
    size, process, memory = calls // rounds, psutil.Process(), []

    def ours(bodies: list[dict[str, Any]], start: int) -> Seconds:
        return time_ours(bodies, folder=folder, spec=spec, start=start)

    def same(bodies: list[dict[str, Any]], start: int) -> Seconds:
        model = open_model(spec, environ={"ANTHROPIC_API_KEY": "k"})
        return time_bare(bodies, model, model.send, concurrency=concurrency)

    def create(bodies: list[dict[str, Any]], start: int) -> Seconds:
        limits = anthropic.DefaultAsyncHttpxClient(limits=_limits(concurrency))
        client = anthropic.AsyncAnthropic(api_key="k", base_url=address, max_retries=0, http_client=limits)
        return time_bare(bodies, client, lambda body: client.messages.create(**body), concurrency=concurrency)

    ways = [("ours", ours), ("messages.create", create), ("our clients, bare", same)]
    times: dict[str, list[Seconds]] = {name: [] for name, _ in ways}
    for turn in range(rounds):
        bodies = [body_of(turn * size + n) for n in range(size)]
        for name, way in ways[turn % 3 :] + ways[: turn % 3]:
            gc.collect()
            times[name].append(way(bodies, turn * size))
        memory.append(round(process.memory_info().rss / 2**20))
    made = size * rounds
    found: dict[str, Any] = {"concurrency": concurrency, "calls_each_way": made, "rss_mb_after_each_round": memory}
    found["commit_ms"] = time_commit(folder)
    for name, seconds in times.items():
        wall, processor = (sum(column) for column in zip(*seconds, strict=True))
        found[name] = {"calls_per_s": round(made / wall, 1), "processor_ms_per_call": round(processor / made * 1000, 3)}
        if name != "ours":
            ratios = [bare[0] / mine[0] for bare, mine in zip(seconds, times["ours"], strict=True)]
            whole = wall / sum(mine[0] for mine in times["ours"])
            found[name] |= {"ours_to_it": round(statistics.median(ratios), 3), "by_all_calls": round(whole, 3)}
            found[name]["by_round"] = [round(ratio, 3) for ratio in ratios]
    return found


def _limits(connections: int) -> Any:
    import httpx2

    return httpx2.Limits(max_connections=connections, max_keepalive_connections=connections)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=10_000, help="each way, at each concurrency")
    parser.add_argument("--concurrency", type=int, nargs="+", default=[8, 32, 64])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--delay", type=float, default=0.05)
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        asyncio.run(serve(options.delay))
        return
    found = []
    for concurrency in options.concurrency:
        with serving(options.delay) as address, tempfile.TemporaryDirectory() as folder:
            model = open_model(ModelSpec(model=MODEL, base_url=address), environ={"ANTHROPIC_API_KEY": "k"})
            time_bare([body_of(n) for n in range(20)], model, model.send, concurrency=4)  # imports are nobody's cost
            found.append(compare(address, calls=options.calls, concurrency=concurrency, rounds=options.rounds, folder=Path(folder)))
    print(json.dumps({"delay_s": options.delay, "results": found}, indent=2))


if __name__ == "__main__":
    main()
