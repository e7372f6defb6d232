"""Asking again for what fell: every row has its verdict in the end, and what is still empty is told with the command that asks on."""

from __future__ import annotations

from pathlib import Path

from curation import api as stages
from tests.support.projects import blank, standin


def test_after_a_refill_every_row_has_a_verdict_and_the_next_command_asks_once_more(tmp_path: Path) -> None:
    folder = blank(tmp_path / "garden", instruction=30)
    with standin(folder, tmp_path / "log") as bed:
        bed.set(r"^  semantic: 0\.9 ", "  semantic: null ")
        for verb in (stages.plan, stages.generate, stages.score, stages.dedup, stages.screen, stages.decide):
            verb(folder)
        bed.set(r"^  threshold: 7\.0", "  threshold: 9.9")  # so that much falls, again and again
        done = stages.refill(folder, rounds=1)
        assert done.counts["asked"] > 0 and done.counts["filled"] < 30
        assert set(bed.verdicts()) == {row.seq for row in bed.rows()}
        left = 30 - done.counts["filled"]
        assert done.notes == [f"{left} cells have no row that passes. To request them once more: curate refill {folder} --rounds 2"]
        assert stages.status(folder).counts["rows"]["instruction"] == sum(stages.status(folder).counts["verdicts"].values())
