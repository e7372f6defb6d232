"""Verdicts in the workbench: one decision after another, and the better of two twins."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path

import pytest

from curation import pipeline
from curation import score as scoring
from curation.errors import ProjectError
from curation.pipeline.deciding import rank_rows
from curation.pipeline.keeping import better_candidate
from curation.project import load_project
from curation.store import facts, hold_lock, open_store, records
from tests.test_pipeline import Bed, approve, blank, import_plain, score_by_hand


def test_a_decision_waits_for_the_one_that_is_being_written(tmp_path: Path) -> None:
    """Of two at once the slower, which read the facts before a person's drop, would else write last and undo it."""
    bed = Bed(blank(tmp_path / "garden"), tmp_path)
    import_plain(bed.folder, 2)
    score_by_hand(bed.folder)
    pipeline.decide(bed.folder)
    row = bed.rows()[0]
    dropping = threading.Thread(target=pipeline.override, args=(bed.folder, row.id), kwargs={"action": "drop", "reason": "odd"})
    with open_store(bed.folder) as db, hold_lock(db, "decide"):  # another process, which has read its facts already
        dropping.start()
        end = time.monotonic() + 30
        while not facts.overrides_by_seq(db) and time.monotonic() < end:
            time.sleep(0.02)
        dropping.join(0.3)
        assert dropping.is_alive()
        facts.replace_verdicts(db, [(row.seq, "to_review", None, [])], 1)
    dropping.join(30)
    assert bed.verdicts()[row.seq] == "dropped"


def test_a_lock_that_is_waited_for_is_told_of_in_the_end(tmp_path: Path) -> None:
    with open_store(tmp_path) as db, hold_lock(db, "decide"), open_store(tmp_path) as other:
        start = time.monotonic()
        with pytest.raises(ProjectError, match="curate decide: is already running"), hold_lock(other, "decide", wait_s=0.3):
            pass
        assert time.monotonic() - start >= 0.3


def test_among_pairs_the_one_whose_better_answer_scores_best_comes_first(tmp_path: Path) -> None:
    folder = blank(tmp_path / "garden")
    lines = [{"prompt": f"Prompt {n}", "chosen": f"Good {n}", "rejected": f"Bad {n}"} for n in range(3)]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    pipeline.import_rows(folder, tmp_path / "pairs.jsonl", shape="preference")
    with pipeline.open_bench(folder) as bench:
        project = load_project(folder)
        candidates = {row.id: row.seq for row in records.list_rows(bench.db, "instruction", role="candidate")}
        pairs = records.list_rows(bench.db, "preference")
        for pair, value in zip(pairs, (3, 5, 4), strict=True):
            seq, digest = better_candidate(pair, candidates), scoring.rubric_digest(project)
            facts.add_scores(bench.db, [(seq, digest, c, value, "", None) for c in (*project.score.rubric, "overall")], 1)
        ranks = rank_rows(bench)
        assert [ranks[pair.seq] for pair in pairs] == [2, 0, 1]


def test_a_keep_that_people_are_against_says_so(tmp_path: Path) -> None:
    bed = Bed(blank(tmp_path / "garden"), tmp_path)
    import_plain(bed.folder, 1)
    score_by_hand(bed.folder)
    approve(bed.folder, says="reject")
    done = pipeline.override(bed.folder, bed.rows()[0].id, action="keep", reason="I like it")
    assert done.counts["verdict"] == "rejected" and "not what people say" in done.notes[0]
