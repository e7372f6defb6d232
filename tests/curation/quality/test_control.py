"""Control rows: all in turn, and those that cannot be used are named."""

from __future__ import annotations

from curation.quality.control import Control, match_controls, rotate_controls

CONTROLS = [Control(f"known-{n}", "reject" if n % 2 else "approve") for n in range(30)]


def test_turns_pass_through_all_control_rows() -> None:
    turns = [rotate_controls(CONTROLS, size=10, turn=turn, seed="s") for turn in range(4)]
    assert {control.row for turn in turns[:3] for control in turn} == {control.row for control in CONTROLS}
    assert turns[3] == turns[0] and turns[0] != rotate_controls(CONTROLS, size=10, turn=0, seed="t")
    assert len(rotate_controls(CONTROLS, size=99, turn=5, seed="s")) == 30


def test_unknown_and_contradicted_control_rows_are_named() -> None:
    listed = [Control("a", "approve"), Control("b", "reject"), Control("b", "approve"), Control("z", "reject"), Control("a", "approve")]
    found = match_controls(listed, {"a", "b"})
    assert (found.controls, found.unknown, found.contradicted) == ((Control("a", "approve"),), ("z",), ("b",))
