"""Calibration of the judge: the blind sample below the cut, and what follows from people's verdicts."""

from __future__ import annotations

from pathlib import Path

import pytest

from curation import api as stages
from curation.config.project import load_project
from curation.decide import Decision
from curation.errors import ProjectError
from curation.judge import rubric as scoring
from curation.stages.pull import add_edits
from curation.stages.push import rows_to_show
from curation.store import facts, records, reviews, runs
from curation.store.database import open_store
from curation.store.reviews import StoredAnswer
from curation.views.decisions import Decided, decide_all, rank_rows
from curation.views.next_step import next_step
from curation.views.review_sample import is_calibration
from curation.views.state import ProjectState
from curation.workspace import open_workspace
from tests.support.projects import Bed, blank, import_plain
from tests.support.review_settings import set_review

SCORE = "{threshold: 6, rubric: {accuracy: Is it true}}"


def project(tmp_path: Path, review: str, *, rows: int = 100, values: tuple[int, ...] = (1, 2, 3, 4, 5)) -> Bed:
    """A project whose rows have the scores (of 5) in turn; with threshold 6 of 10, scores of 4 and 5 pass."""
    bed = set_review(blank(tmp_path / "garden"), review, score=SCORE)
    import_plain(bed.folder, rows)
    score(bed, {row.seq: values[place % len(values)] for place, row in enumerate(bed.rows())})
    return bed


def score(bed: Bed, by_seq: dict[int, int]) -> None:
    digest = scoring.rubric_digest(load_project(bed.folder))
    with open_store(bed.folder) as db, runs.record_run(db, "score") as run:
        lines = [(seq, digest, name, value, "", None) for seq, value in by_seq.items() for name in ("accuracy", "overall")]
        facts.add_scores(db, lines, run.number)


def decided(bed: Bed) -> Decided:
    with open_workspace(bed.folder) as workspace:
        return decide_all(ProjectState(workspace))


def shown(bed: Bed) -> set[int]:
    """Seqs of the rows that push would show to people."""
    with open_workspace(bed.folder) as workspace:
        state = ProjectState(workspace)
        return {row.seq for row in rows_to_show(state, decide_all(state).decisions)["instruction"]}


def answer(bed: Bed, says: dict[int, str], user: str = "ada") -> None:
    """Store answers: approve, reject, or another text, which is an edit."""
    with open_store(bed.folder) as db:
        ids = records.ids_of(db)
        given = []
        for seq, what in says.items():
            edited = "" if what in ("approve", "reject") else what
            values = {"verdict": "approve" if edited else what, "edited_completion": edited}
            given.append(StoredAnswer(f"{ids[seq]}:{user}", f"t-{what}", seq, user, "submitted", values, "", "", False))
        reviews.add_answers(db, given, 1)


def by_seq(bed: Bed) -> dict[int, Decision]:
    return {decision.seq: decision for decision in decided(bed).decisions}


def test_people_see_a_stable_random_part_of_the_rows_below_the_cut(tmp_path: Path) -> None:
    bed = project(tmp_path, "{mode: all, overlap: 1, calibrate: 12}")
    found = decided(bed).scored["instruction"]
    assert (len(found.above), len(found.below), len(found.drawn)) == (40, 60, 12)
    assert shown(bed) == found.above | found.drawn
    drawn = [decision for decision in by_seq(bed).values() if is_calibration(decision)]
    assert {decision.seq for decision in drawn} == found.drawn
    assert {decision.reasons[0].kind for decision in drawn} == {"below_cut"}
    assert sorted(decision.reasons[0].score or 0 for decision in drawn) == [0.0] * 4 + [2.5] * 4 + [5.0] * 4
    assert decided(bed).scored["instruction"].drawn == found.drawn
    note = "Calibration, instruction: people see 12 of the 60 rows that only the score drops and have answered 0; these rows stay dropped."
    done = stages.decide(bed.folder)
    assert note in done.notes and done.counts["calibration"] == {"instruction": {"below": 60, "shown": 12, "answered": 0}}


def test_a_row_below_the_cut_stays_dropped_whatever_people_say(tmp_path: Path) -> None:
    bed = project(tmp_path, "{mode: all, overlap: 1, calibrate: 12}")
    drawn = sorted(decided(bed).scored["instruction"].drawn)
    answer(bed, {drawn[0]: "approve", drawn[1]: "reject", drawn[2]: "Another text."})
    found = decided(bed)
    assert found.scored["instruction"].drawn == set(drawn)  # an answer does not change the draw
    assert {by_seq(bed)[seq].verdict for seq in drawn} == {"dropped"}
    assert {seq: found.scored["instruction"].said[seq] for seq in drawn[:3]} == dict(
        zip(drawn, ("approved", "rejected", "edited"), strict=False)
    )
    assert found.scored["instruction"].answered == 3
    stages.decide(bed.folder)
    with open_workspace(bed.folder) as workspace:
        assert add_edits(workspace, 1) == 0
    bed.set(r"threshold: 6", "threshold: 0")
    assert [by_seq(bed)[seq].verdict for seq in drawn[:3]] == ["approved", "rejected", "edited"]
    stages.decide(bed.folder)
    with open_workspace(bed.folder) as workspace:
        assert add_edits(workspace, 2) == 1


def test_in_mode_sample_the_drawn_rows_below_the_cut_come_on_top(tmp_path: Path) -> None:
    bed = project(tmp_path, "{mode: sample, sample: 10, overlap: 1, calibrate: 6}")
    found = decided(bed)
    assert len(found.samples["instruction"].drawn) == 10 and len(found.scored["instruction"].drawn) == 6
    assert shown(bed) == found.samples["instruction"].drawn | found.scored["instruction"].drawn
    answer(bed, dict.fromkeys(found.scored["instruction"].drawn, "reject"))
    assert decided(bed).samples["instruction"].answered == 0


@pytest.mark.parametrize(("values", "calibrate", "drawn"), [((1, 2), 500, 100), ((4, 5), 5, 0), ((3,), 5, 5)])
def test_a_sample_larger_than_the_set_takes_all_and_nobody_below_the_cut_gives_none(
    tmp_path: Path, values: tuple[int, ...], calibrate: int, drawn: int
) -> None:
    bed = project(tmp_path, f"{{mode: all, overlap: 1, calibrate: {calibrate}}}", values=values)
    assert len(decided(bed).scored["instruction"].drawn) == drawn


def test_rows_that_something_else_drops_too_or_a_data_lead_decided_are_not_drawn(tmp_path: Path) -> None:
    bed = project(tmp_path, "{mode: all, overlap: 1, calibrate: 100}")
    seqs = sorted(decided(bed).scored["instruction"].drawn)
    with open_store(bed.folder) as db, runs.record_run(db, "dedup") as run:
        facts.add_findings(db, [facts.Finding(seqs[0], "dedup", "near", True, seqs[1])], run.number)
        ids = records.ids_of(db)
    stages.override(bed.folder, ids[seqs[2]], action="drop", reason="off topic")
    assert set(seqs) - decided(bed).scored["instruction"].drawn == {seqs[0], seqs[2]}


def test_a_row_seen_for_the_calibration_does_not_displace_a_duplicate_that_passes(tmp_path: Path) -> None:
    bed = project(tmp_path, "{mode: all, overlap: 1, calibrate: 100}", rows=10)
    stages.decide(bed.folder)
    with open_workspace(bed.folder) as workspace:
        state = ProjectState(workspace)
        below = decide_all(state).scored["instruction"].drawn
        reviews.mark_pushed(workspace.db, reviews.Place("s", "d", "n"), [(seq, "x") for seq in below])
        ranks = rank_rows(ProjectState(workspace))
    assert max(rank for seq, rank in ranks.items() if seq not in below) < min(ranks[seq] for seq in below)


def test_the_next_step_pushes_the_drawn_rows_and_does_not_wait_for_them(tmp_path: Path) -> None:
    bed = project(tmp_path, "{mode: all, overlap: 1, calibrate: 6}", rows=20)
    answer(bed, dict.fromkeys(decided(bed).scored["instruction"].above, "approve"))
    for stage in ("dedup", "screen"):
        getattr(stages, stage)(bed.folder)
    stages.decide(bed.folder)
    with open_workspace(bed.folder) as workspace:
        assert str(next_step(workspace)).startswith("curate push")
        place = reviews.Place("s", "d", "n")
        reviews.mark_pushed(workspace.db, place, [(seq, "x") for seq in shown(bed)])
        assert str(next_step(workspace)).startswith("curate snapshot")


def test_calibrate_needs_people(tmp_path: Path) -> None:
    bed = set_review(blank(tmp_path / "garden"), "{mode: none, calibrate: 5}")
    with pytest.raises(ProjectError, match="calibrate goes with mode: sample or all; the mode is none"):
        load_project(bed.folder)
