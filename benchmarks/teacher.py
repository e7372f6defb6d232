"""How much keeping every response costs: `ask` with its ledger beside a bare asyncio loop over the same client, at the same concurrency.

    python benchmarks/teacher.py [--calls 10000] [--concurrency 8 32 64] [--rounds 5] [--delay 0.05]

A server in a process of its own answers each call after the delay. Both ways run in turns in one process; ours commits every response to a
real workbench.db (WAL, synchronous=FULL) before it is read. Ratios are what to look at; the bare loop is given twice: sending through our
client as `ask` does, and with the SDK's own `messages.create`. Prints one JSON object.
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

from curation.models import ask, open_model
from curation.project import ModelSpec
from curation.requests import Request
from curation.store import CallLedger, open_store

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
    """As little HTTP as a server can speak: whole requests in, the same answer out after the delay."""

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
    """The server in a process of its own."""
    process = subprocess.Popen([sys.executable, __file__, "--serve", "--delay", str(delay)], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield f"http://127.0.0.1:{int(process.stdout.readline())}"
    finally:
        process.kill()
        process.wait()


def body_of(number: int) -> dict[str, Any]:
    """A request of the size that a teacher is sent."""
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


def time_bare(bodies: list[dict[str, Any]], send: Callable[[dict[str, Any]], Awaitable[Any]], *, concurrency: int) -> float:
    """Seconds of a loop that keeps nothing."""

    async def run() -> None:
        waiting = iter(bodies)

        async def work() -> None:
            for body in waiting:
                await send(body)

        await asyncio.gather(*(work() for _ in range(concurrency)))

    began = time.perf_counter()
    asyncio.run(run())
    return time.perf_counter() - began


def time_ours(bodies: list[dict[str, Any]], *, folder: Path, spec: ModelSpec, start: int) -> float:
    """Seconds of `ask`, every response committed before it is read."""
    requests = [Request(stage="generate", slot=f"instruction:{start + n:05d}", role="teacher", body=b) for n, b in enumerate(bodies)]
    with open_store(folder) as db:
        began = time.perf_counter()
        model = open_model(spec, environ={"ANTHROPIC_API_KEY": "k"})
        summary = ask(requests, model=model, spec=spec, ledger=CallLedger(db), budget_usd=1e6, simulated=False)
        seconds = time.perf_counter() - began
    assert summary.answered == len(bodies) and summary.failed == 0, summary
    return seconds


def compare(address: str, *, calls: int, concurrency: int, rounds: int, folder: Path) -> dict[str, Any]:
    """All three ways in turns; the rounds' order is turned too."""
    import anthropic

    spec = ModelSpec(model=MODEL, base_url=address, concurrency=concurrency)
    size, process = calls // rounds, psutil.Process()
    times: dict[str, list[float]] = {"ours": [], "same client": [], "messages.create": []}
    memory = []

    def ours(bodies: list[dict[str, Any]], start: int) -> float:
        return time_ours(bodies, folder=folder, spec=spec, start=start)

    def same(bodies: list[dict[str, Any]], start: int) -> float:
        return time_bare(bodies, open_model(spec, environ={"ANTHROPIC_API_KEY": "k"}).send, concurrency=concurrency)

    def create(bodies: list[dict[str, Any]], start: int) -> float:
        limits = anthropic.DefaultAsyncHttpxClient(limits=_limits(concurrency))
        client = anthropic.AsyncAnthropic(api_key="k", base_url=address, max_retries=0, http_client=limits)
        return time_bare(bodies, lambda body: client.messages.create(**body), concurrency=concurrency)

    ways = [("ours", ours), ("same client", same), ("messages.create", create)]
    for turn in range(rounds):
        bodies = [body_of(turn * size + n) for n in range(size)]
        for name, way in ways[turn % 3 :] + ways[: turn % 3]:
            gc.collect()
            times[name].append(way(bodies, turn * size))
        memory.append(round(process.memory_info().rss / 2**20))
    ratio = {name: [bare / mine for bare, mine in zip(times[name], times["ours"], strict=True)] for name in list(times)[1:]}
    return {
        "concurrency": concurrency,
        "calls_each_way": size * rounds,
        "calls_per_s": {name: round(size * rounds / sum(seconds), 1) for name, seconds in times.items()},
        "ratio_to_same_client": round(statistics.median(ratio["same client"]), 3),
        "ratio_to_messages_create": round(statistics.median(ratio["messages.create"]), 3),
        "ratios_by_round": [round(r, 3) for r in ratio["same client"]],
        "rss_mb_after_each_round": memory,
    }


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
            time_bare([body_of(n) for n in range(20)], _warm_up(address), concurrency=4)
            found.append(compare(address, calls=options.calls, concurrency=concurrency, rounds=options.rounds, folder=Path(folder)))
    print(json.dumps({"delay_s": options.delay, "results": found}, indent=2))


def _warm_up(address: str) -> Callable[[dict[str, Any]], Awaitable[Any]]:
    """Imports and first connections are nobody's cost."""
    return open_model(ModelSpec(model=MODEL, base_url=address), environ={"ANTHROPIC_API_KEY": "k"}).send


if __name__ == "__main__":
    main()
