"""Alarms about a gate's result: emptied classes and large shares."""

from __future__ import annotations

from curation.findings import GateAlarm, gate_alarms


def test_emptied_classes_are_named_largest_first() -> None:
    labels = ["a"] * 3 + ["b"] * 2 + ["c"] * 4 + ["lone"] + [None] * 2
    dropped = [True] * 3 + [True] * 2 + [True] + [False] * 3 + [True] + [True] * 2
    (alarm,) = gate_alarms("screen", labels, dropped)
    assert alarm == GateAlarm("screen", 12, 9, None, (("a", 3), ("b", 2)), 3)
    assert str(alarm) == "screen: 2 of 3 classes have no row left: a (3 rows), b (2 rows). Look at why they are dropped."


def test_more_than_the_stated_share_is_an_alarm() -> None:
    labels = [None] * 10
    assert gate_alarms("screen", labels, [True] * 2 + [False] * 8, share=0.2) == []
    (alarm,) = gate_alarms("screen", labels, [True] * 3 + [False] * 7, share=0.2)
    assert alarm == GateAlarm("screen", 10, 3, 0.2)
    assert str(alarm).startswith("screen: 3 of 10 rows (30%) are dropped, above the alarm at 20%. ")


def test_no_rows_raise_no_alarm() -> None:
    assert gate_alarms("dedup", [], [], share=0.5) == []
