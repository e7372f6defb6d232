"""Word differences as people read them in a terminal."""

from __future__ import annotations

import pytest

from curation.word_diff import mark_changes


@pytest.mark.parametrize(
    ("before", "after", "shown"),
    [
        ("Water it often.", "Water it daily.", "Water it [-often-]{+daily+}."),
        ("Water it.", "Water it. Often.", "Water it.{+ Often.+}"),
        ("Water it daily.", "Water daily.", "Water[- it-] daily."),
        ("one two", "three four five", "[-one two-]{+three four five+}"),
        ("", "new", "{+new+}"),
        ("same", "same", "same"),
        ("水をやる", "水をやれ", "[-水をやる-]{+水をやれ+}"),
    ],
)
def test_words_that_changed_are_marked(before: str, after: str, shown: str) -> None:
    assert mark_changes(before, after) == shown


def test_long_texts_are_marked_as_a_whole_at_once() -> None:
    before, after = "a b " * 5000, "c d " * 5000
    assert mark_changes(before, after) == f"[-{before}-]{{+{after}+}}"
