"""Who writes when: people together, a push alone, people before a push, and a push that comes to its end all the same."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from argilla_setup.engine.write_scheduler import MAX_CONCURRENT, ScheduledWrites, WriteScheduler

ANSWERS = [
    ("POST", "/api/v1/records/4f/responses"),
    ("PUT", "/api/v1/responses/4f"),
    ("DELETE", "/api/v1/responses/4f"),
    ("POST", "/api/v1/me/responses/bulk"),
    ("POST", "/argilla/api/v1/records/4f/responses"),
]
RECORDS = [
    ("PUT", "/api/v1/datasets/4f/records/bulk"),
    ("POST", "/api/v1/datasets/4f/records/bulk"),
    ("DELETE", "/api/v1/datasets/4f/records"),
]
FREE = [("GET", "/api/v1/datasets/4f/records"), ("POST", "/api/v1/me/datasets/4f/records/search"), ("POST", "/api/v1/datasets"),
        ("PUT", "/api/v1/records/4f/suggestions"), ("POST", "/api/v1/token")]  # fmt: skip


class Inside:
    """An ASGI app that notes who is in it, and how many at once. Nobody leaves before all have arrived."""

    def __init__(self) -> None:
        self.order: list[str] = []
        self.now = self.most = 0
        self.arrived = asyncio.Event()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.order.append(scope["name"])
        self.now += 1
        self.most = max(self.most, self.now)
        await self.arrived.wait()
        await asyncio.sleep(0)  # whoever was admitted together with this one comes in
        self.now -= 1
        if scope["name"] == "broken":
            raise RuntimeError("broken")


async def whole() -> dict[str, Any]:
    """A request that has come at once."""
    return {"type": "http.request", "body": b"", "more_body": False}


def scope(name: str, method: str, path: str) -> dict[str, Any]:
    return {"type": "http", "name": name, "method": method, "path": path}


async def send_all(inside: Inside, *requests: tuple[str, tuple[str, str]]) -> None:
    """Each arrives before the next one."""
    app = ScheduledWrites(inside)
    tasks = []
    for name, (method, path) in requests:
        tasks.append(asyncio.create_task(app(scope(name, method, path), whole, None)))
        await asyncio.sleep(0)
    inside.arrived.set()
    await asyncio.gather(*tasks, return_exceptions=True)


def test_people_come_before_the_push_that_was_there_first() -> None:
    inside = Inside()
    waiting = [("push2", RECORDS[0]), ("push3", RECORDS[1]), ("ada", ANSWERS[0]), ("bob", ANSWERS[1]), ("cleo", ANSWERS[3])]
    asyncio.run(send_all(inside, ("push1", RECORDS[0]), *waiting))
    assert inside.order == ["push1", "ada", "bob", "cleo", "push2", "push3"]
    assert inside.most == MAX_CONCURRENT


@pytest.mark.parametrize("one", [*ANSWERS, *RECORDS])
@pytest.mark.parametrize("records", RECORDS)
def test_a_push_is_alone(one: tuple[str, str], records: tuple[str, str]) -> None:
    for order in ((one, records), (records, one)):
        inside = Inside()
        asyncio.run(send_all(inside, ("one", order[0]), ("other", order[1])))
        assert inside.most == 1


@pytest.mark.parametrize("first", ANSWERS)
@pytest.mark.parametrize("then", ANSWERS)
def test_two_people_do_not_wait_for_one_another(first: tuple[str, str], then: tuple[str, str]) -> None:
    inside = Inside()
    asyncio.run(send_all(inside, ("one", first), ("other", then)))
    assert inside.most == 2


def test_people_go_in_in_the_order_in_which_they_came() -> None:
    inside, names = Inside(), [f"person{n}" for n in range(20)]
    asyncio.run(send_all(inside, *((name, ANSWERS[0]) for name in names)))
    assert inside.order == names and inside.most == MAX_CONCURRENT


def test_nobody_waits_for_a_slow_line_and_nothing_of_the_request_is_lost() -> None:
    seen: dict[str, list[Any]] = {}

    async def app(given: Any, receive: Any, send: Any) -> None:
        seen[given["name"]] = [await receive(), await receive(), await receive()]

    async def visit() -> None:
        arrive = asyncio.Event()

        async def slow() -> dict[str, Any]:
            if not arrive.is_set():
                await arrive.wait()
                return {"type": "http.request", "body": b"a", "more_body": True}
            return parts.pop(0)

        parts = [{"type": "http.request", "body": b"b", "more_body": False}, {"type": "http.disconnect"}]
        taking = ScheduledWrites(app)
        waiting = [asyncio.create_task(taking(scope("slow", *RECORDS[0]), slow, None))]
        await asyncio.sleep(0)
        for n in range(5):
            await asyncio.wait_for(taking(scope(f"quick{n}", *ANSWERS[0]), whole, None), 60)
        arrive.set()
        await asyncio.gather(*waiting)

    asyncio.run(visit())
    assert len(seen) == 6 and [message.get("body") for message in seen["slow"]] == [b"a", b"b", None]


@pytest.mark.parametrize("free", FREE)
def test_what_only_reads_or_is_rare_waits_for_nobody(free: tuple[str, str]) -> None:
    inside = Inside()
    asyncio.run(send_all(inside, ("push", RECORDS[0]), ("reader", free)))
    assert inside.most == 2


def test_what_is_no_request_passes() -> None:
    inside = Inside()
    inside.arrived.set()
    asyncio.run(ScheduledWrites(inside)({"type": "lifespan", "name": "lifespan"}, None, None))
    assert inside.order == ["lifespan"]


def test_a_push_is_not_put_off_for_ever() -> None:
    """Three people answer one record after the other, so that one of them is always waiting; each answer takes 0.03 s."""
    now, order = 0.0, list[str]()

    async def inside(given: Any, receive: Any, send: Any) -> None:
        nonlocal now
        order.append(given["name"])
        await asyncio.sleep(0)
        now += 0.03

    app = ScheduledWrites(inside, scheduler=WriteScheduler(patience=0.1, clock=lambda: now))

    async def answer() -> None:
        while len(order) < 40:
            await app(scope("person", *ANSWERS[0]), whole, None)

    async def visit() -> None:
        people = [asyncio.create_task(answer()) for _ in range(3)]
        await asyncio.sleep(0)
        await asyncio.gather(*people, app(scope("push", *RECORDS[0]), whole, None))

    asyncio.run(visit())
    assert 4 <= order.index("push") <= 7


def test_a_request_that_fails_or_is_given_up_keeps_nobody_waiting() -> None:
    inside = Inside()
    app = ScheduledWrites(inside)

    async def visit() -> None:
        broken = asyncio.create_task(app(scope("broken", *RECORDS[0]), whole, None))
        tired = asyncio.create_task(app(scope("tired", *ANSWERS[0]), whole, None))
        late = asyncio.create_task(app(scope("late", *RECORDS[0]), whole, None))
        await asyncio.sleep(0)
        inside.arrived.set()
        tired.cancel()
        await asyncio.wait_for(late, 60)
        assert isinstance(broken.exception(), RuntimeError) and tired.cancelled()

    asyncio.run(visit())
    assert inside.order == ["broken", "late"]


def test_a_turn_that_comes_in_the_moment_of_giving_up_is_passed_on() -> None:
    turns, order = WriteScheduler(), list[str]()

    async def take(name: str, gone: asyncio.Event | None = None) -> None:
        async with turns.turn(person=False):
            order.append(name)
            if gone is not None:
                await gone.wait()

    async def visit() -> None:
        gone = asyncio.Event()
        first, second, third = (asyncio.create_task(take(name, gone if name == "first" else None)) for name in ("first", "second", "third"))
        await asyncio.sleep(0.01)
        gone.set()
        await asyncio.sleep(0)  # `first` has handed its turn to `second`, which has not run yet
        second.cancel()
        await asyncio.wait_for(asyncio.gather(first, third), 60)

    asyncio.run(visit())
    assert order == ["first", "third"]
