"""Control rows: mixed in at their rate, at places nobody can foresee, each once for a person, all in turn."""

from __future__ import annotations

from collections import Counter

import pytest

from curation.quality.control import Control, match_controls, mix_controls, rotate_controls

QUEUE = [f"row-{n}" for n in range(200)]
CONTROLS = [Control(f"known-{n}", "reject" if n % 2 else "approve") for n in range(30)]


def mixed(person: str = "ada", *, rate: float = 0.1, seen: tuple[str, ...] = (), controls: list[Control] | None = None) -> list[str]:
    return mix_controls(QUEUE, CONTROLS if controls is None else controls, person=person, seed="s", rate=rate, seen=seen)


def places(queue: list[str]) -> list[int]:
    return [at for at, row in enumerate(queue) if row.startswith("known")]


def test_the_rate_is_met_and_no_row_is_lost_or_moved() -> None:
    for rate, expected in ((0.1, 22), (0.05, 10), (0.12, 27)):
        queue = mixed(rate=rate)
        assert [row for row in queue if row.startswith("row")] == QUEUE
        assert abs(len(places(queue)) - expected) <= 1
    assert mixed(rate=0) == QUEUE == mixed(controls=[])
    with pytest.raises(ValueError, match="rate must be between 0 and"):
        mixed(rate=0.6)


def test_places_and_order_differ_by_person_and_repeat_for_the_same() -> None:
    assert mixed("ada") == mixed("ada")
    assert places(mixed("ada")) != places(mixed("bob"))
    assert [row for row in mixed("ada") if row.startswith("known")] != [row for row in mixed("bob") if row.startswith("known")]
    gaps = Counter(later - earlier for earlier, later in zip(places(mixed()), places(mixed())[1:], strict=False))
    assert len(gaps) > 5  # the distance to the last control row does not give the next away


def test_a_person_gets_each_control_row_once() -> None:
    seen = tuple(control.row for control in CONTROLS[:28])
    found = [row for row in mixed(seen=seen) if row.startswith("known")]
    assert sorted(found) == ["known-28", "known-29"]
    assert mixed(seen=tuple(control.row for control in CONTROLS)) == QUEUE


def test_a_control_row_in_the_queue_keeps_no_place_of_its_own() -> None:
    queue = mix_controls(["known-0", *QUEUE], CONTROLS, person="ada", seed="s", rate=0.1, seen=())
    assert queue.count("known-0") <= 1 and [row for row in queue if row.startswith("row")] == QUEUE


def test_turns_pass_through_all_control_rows() -> None:
    turns = [rotate_controls(CONTROLS, size=10, turn=turn, seed="s") for turn in range(4)]
    assert {control.row for turn in turns[:3] for control in turn} == {control.row for control in CONTROLS}
    assert turns[3] == turns[0] and turns[0] != rotate_controls(CONTROLS, size=10, turn=0, seed="t")
    assert len(rotate_controls(CONTROLS, size=99, turn=5, seed="s")) == 30


def test_unknown_and_contradicted_control_rows_are_named() -> None:
    listed = [Control("a", "approve"), Control("b", "reject"), Control("b", "approve"), Control("z", "reject"), Control("a", "approve")]
    found = match_controls(listed, {"a", "b"})
    assert (found.controls, found.unknown, found.contradicted) == ((Control("a", "approve"),), ("z",), ("b",))
