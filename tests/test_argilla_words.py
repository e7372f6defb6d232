"""What annotators read before they answer: the project's brief first, then its own words, then how the form works."""

from __future__ import annotations

from pathlib import Path

import pytest

from argilla_setup import forms
from curation.errors import ProjectError
from curation.pipeline.bench import open_bench
from curation.pipeline.reviewing import project_words
from curation.review import form_digest
from tests.test_pipeline import BRIEF, Bed, blank


@pytest.fixture
def bed(tmp_path: Path) -> Bed:
    return Bed(blank(tmp_path / "garden"), tmp_path)


def words(bed: Bed, kind: str = "instruction") -> str:
    with open_bench(bed.folder) as bench:
        return project_words(bench, kind)  # type: ignore[arg-type]


def test_annotators_read_the_brief_first(bed: Bed) -> None:
    assert words(bed) == f"# The brief\n\n{BRIEF}"
    text = forms.guidelines_text("instruction", words(bed))
    assert text.index(BRIEF) < text.index("# How to review an answer")


def test_the_shape_of_an_answer_and_the_projects_own_words_follow(bed: Bed) -> None:
    bed.set(r"^  guidelines: null.*$", "  guidelines: ours.md")
    bed.set(r"^  output_format: .*$", "  output_format: 'Answer: <two sentences>'")
    (bed.folder / "ours.md").write_text("\n## Plants\n\nLatin names are welcome.\n")
    shape = "```\nAnswer: <two sentences>\n```"
    assert words(bed) == f"# The brief\n\n{BRIEF}\n\nEvery completion has this shape:\n\n{shape}\n\n## Plants\n\nLatin names are welcome."
    assert f"Every response has this shape:\n\n{shape}" in words(bed, "preference")


def test_guidelines_that_are_not_there_are_named(bed: Bed) -> None:
    bed.set(r"^  guidelines: null.*$", "  guidelines: ours.md")
    with pytest.raises(ProjectError, match=r"review.guidelines: names .*ours.md, which is not there"):
        words(bed)


def test_answers_are_held_against_the_words_that_were_read() -> None:
    given = {"criteria": ["accuracy"], "overlap": 2}
    one, other, same = (form_digest("instruction", words=text, **given) for text in ("a", "b", "a"))  # type: ignore[arg-type]
    assert one == same != other
