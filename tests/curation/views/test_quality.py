"""Acceptance of rows that nobody read: what people are shown, what is still needed, and the certificate in the snapshot."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

import pytest

from curation import api as stages
from curation.config.project import load_project
from curation.errors import ProjectError, SnapshotError
from curation.quality.certificate import Certificate, verify_certificate
from curation.snapshot.certificate import read_certificate
from curation.snapshot.manifest import read_manifest
from curation.stages.push import rows_to_show
from curation.store import records, reviews
from curation.store.database import open_store
from curation.store.reviews import StoredAnswer
from curation.views.decisions import decide_all
from curation.views.state import ProjectState
from curation.workspace import open_workspace
from tests.support.projects import Bed, blank, import_plain
from tests.support.review_settings import set_review


def project(tmp_path: Path, accept: str, *, sample: int = 80, rows: int = 120) -> Bed:
    bed = set_review(blank(tmp_path / "garden"), f"{{mode: sample, sample: {sample}, overlap: 1, accept: {accept}}}")
    import_plain(bed.folder, rows)
    return bed


def shown(bed: Bed) -> list[int]:
    """Seqs of the rows that push would show to people."""
    with open_workspace(bed.folder) as workspace:
        state = ProjectState(workspace)
        return [row.seq for row in rows_to_show(state, decide_all(state).decisions)["instruction"]]


def answer(bed: Bed, seqs: list[int], says: str = "approve") -> None:
    with open_store(bed.folder) as db:
        ids = records.ids_of(db)
        values = {"verdict": says, "edited_completion": ""}
        given = [StoredAnswer(f"{ids[seq]}:ada", f"t-{says}", seq, "ada", "submitted", values, "", "", False) for seq in seqs]
        reviews.add_answers(db, given, 1)


def acceptance_note(bed: Bed) -> str:
    return next(note for note in stages.decide(bed.folder).notes if note.startswith("Acceptance"))


def test_a_certificate_goes_into_the_snapshot_once_the_sample_is_read(tmp_path: Path) -> None:
    bed = project(tmp_path, "{max_error: 0.05}")
    drawn = shown(bed)
    assert len(drawn) == 80
    with pytest.raises(SnapshotError, match="needs the review sample: 80 of its 80 rows are not answered"):
        stages.snapshot(bed.folder, "instruction")
    answer(bed, drawn)
    done = stages.decide(bed.folder)
    assert done.counts["approved"] == 120 and done.notes[-1] == "Acceptance, instruction: no more reviews are needed."
    path = Path(stages.snapshot(bed.folder, "instruction").counts["path"])
    manifest = read_manifest(path)
    found = read_certificate(path, manifest)
    assert found is not None and found.accepts and verify_certificate(found) == found.bound
    evidence = found.evidence
    assert (evidence.method, evidence.rows, evidence.read, evidence.kept) == ("hypergeometric", 120, 80, manifest.rows)
    assert found.reviewers == ("annotator-1",) and not found.simulated and len(evidence.seed) == 16
    card = (path / "README.md").read_text()
    assert f"Acceptance certificate (`certificate.json`): at most {found.bound.released:.2%} of the released rows are bad" in card


def test_too_many_bad_rows_hold_the_rest_back_and_the_need_is_said(tmp_path: Path) -> None:
    bed = project(tmp_path, "{max_error: 0.05, looks: any}")
    drawn = shown(bed)
    answer(bed, drawn[:10], "reject")
    answer(bed, drawn[10:])
    assert "no sample can meet the policy any more" in acceptance_note(bed)
    with pytest.raises(SnapshotError, match=r"blocked by review.accept: 10 of 80 sampled rows are bad"):
        stages.snapshot(bed.folder, "instruction")


def test_a_sample_that_cannot_meet_the_policy_says_so_before_anybody_reads(tmp_path: Path) -> None:
    bed = project(tmp_path, "{max_error: 0.05}", sample=20)
    drawn = shown(bed)
    asked = re.search(r"(\d+) more rows must be read and (\d+) of the sample are unread, so set review.sample to at least (\d+)",
                      acceptance_note(bed))  # fmt: skip
    assert asked and int(asked[2]) == len(drawn) and int(asked[1]) == int(asked[3]) > len(drawn)
    bed.set(r"sample: 20", f"sample: {asked[3]}")
    answer(bed, shown(bed))
    assert acceptance_note(bed).endswith("no more reviews are needed.")


def test_a_sample_that_may_be_looked_at_any_time_is_judged_before_its_end_and_may_grow(tmp_path: Path) -> None:
    bed = project(tmp_path, "{max_error: 0.05, looks: any}", sample=40)
    first = shown(bed)
    answer(bed, first)
    assert "0 of the sample are unread, so set review.sample to at least" in acceptance_note(bed)
    bed.set(r"sample: 40", "sample: 100")
    more = shown(bed)
    assert len(set(more) - set(first)) == 60
    order = [seq for seq in more if seq not in first]
    answer(bed, order)
    assert acceptance_note(bed) == "Acceptance, instruction: no more reviews are needed."


@pytest.mark.parametrize(
    ("review", "message"),
    [
        ("{mode: all, accept: {max_error: 0.05}}", "accept goes with mode: sample"),
        ("{mode: sample, max_error: 0.1, accept: {max_error: 0.05}}", "accept replaces max_error"),
        ("{mode: sample, accept: {max_error: 0.05, confidence: 0.5}}", "confidence"),
        ("{mode: sample, accept: {max_eror: 0.05}}", "max_error"),
    ],
)
def test_settings_that_contradict_one_another_are_refused(tmp_path: Path, review: str, message: str) -> None:
    bed = set_review(blank(tmp_path / "garden"), review)
    with pytest.raises(ProjectError, match=message):
        load_project(bed.folder)


def test_a_signed_certificate_with_a_better_bound_than_its_counts_give_is_refused(tmp_path: Path) -> None:
    """Whoever holds a key can sign a false certificate; the counts still give it away."""
    bed = project(tmp_path, "{max_error: 0.05}")
    answer(bed, shown(bed))
    path = Path(stages.snapshot(bed.folder, "instruction").counts["path"])
    stages.sign(path)
    assert stages.verify(path).counts["status"] == "verified"
    (path / "model.sig").unlink()
    values = json.loads((path / "certificate.json").read_text())
    values["bound"]["released"] = 0.001
    body = Certificate.model_validate(values).model_dump_json(indent=2) + "\n"
    manifest = json.loads((path / "manifest.json").read_text())
    manifest["files"]["certificate.json"] = hashlib.sha256(body.encode()).hexdigest()
    for name, text in (("certificate.json", body), ("manifest.json", json.dumps(manifest))):
        (path / name).chmod(0o644)
        (path / name).write_text(text)
    public = Path(stages.sign(path).counts["public_key"])
    found = stages.verify(path, keys=[public])
    assert found.counts["status"] == "altered"
    assert any("states released = 0.001, but its counts give" in note for note in found.notes)
