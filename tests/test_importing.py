"""`curate import`: rows, their metadata and groups, and where they came from."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import pytest

from curation import pipeline
from curation.errors import ProjectError
from curation.pipeline import Provenance
from curation.store import open_store, records
from curation.template import write_template

BRIEF = "Answer gardening questions for beginners in two sentences."


@pytest.fixture
def garden(tmp_path: Path) -> Path:
    """A project without a plan."""
    folder = tmp_path / "garden"
    write_template(folder, "blank", instruction=6, preference=2)
    path = folder / "project.yaml"
    path.write_text(re.sub(r"^(brief|intended_use): .*$", rf"\1: {BRIEF}", path.read_text(), flags=re.M))
    return folder


def jsonl(path: Path, *rows: Any) -> Path:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


def metadata(folder: Path) -> list[dict[str, Any] | None]:
    """The metadata of each record of its own, in order."""
    with open_store(folder) as db:
        found = records.meta_by_seq(db)
        return [found.get(row.seq) for kind in ("instruction", "preference") for row in records.list_rows(db, kind)]


def test_every_other_column_is_kept_with_the_row(garden: Path, tmp_path: Path) -> None:
    rows = [
        {"prompt": "a", "completion": "b", "label": "x", "id": 7, "tags": ["t", {"u": None}], "ok": True, "score": 0.5, "note": None},
        {"prompt": "c", "completion": "d", "ticket": "T-1"},
    ]
    summary = pipeline.import_rows(garden, jsonl(tmp_path / "rows.jsonl", *rows))
    assert metadata(garden) == [{"id": 7, "tags": ["t", {"u": None}], "ok": True, "score": 0.5, "note": None}, {"ticket": "T-1"}]
    assert summary.counts["metadata"] == ["id", "tags", "ok", "score", "note", "ticket"]


def test_of_a_pair_the_row_has_the_metadata_and_not_its_candidates(garden: Path, tmp_path: Path) -> None:
    pipeline.import_rows(garden, jsonl(tmp_path / "rows.jsonl", {"prompt": "a", "chosen": "b", "rejected": "c", "label": "x", "by": "ada"}))
    assert metadata(garden) == [{"label": "x", "by": "ada"}]
    with open_store(garden) as db:
        assert list(records.meta_by_seq(db).values()) == [{"label": "x", "by": "ada"}]


def test_renamed_columns_are_no_metadata_and_those_they_replace_are(garden: Path, tmp_path: Path) -> None:
    row = {"question": "a", "answer": "b", "prompt": "kept", "system": ""}
    pipeline.import_rows(garden, jsonl(tmp_path / "rows.jsonl", row), columns={"prompt": "question", "completion": "answer"})
    assert metadata(garden) == [{"prompt": "kept"}]


def test_metadata_that_is_too_large_is_left_out_largest_first_and_counted(garden: Path, tmp_path: Path) -> None:
    rows = [{"prompt": f"q{n}", "completion": "a", "page": "x" * 40_000, "html": "y" * 20_000, "id": n} for n in range(3)]
    summary = pipeline.import_rows(garden, jsonl(tmp_path / "rows.jsonl", *rows))
    assert metadata(garden) == [{"html": "y" * 20_000, "id": n} for n in range(3)]
    assert "Metadata column page: not kept in 3 rows (too large, or not JSON)." in summary.notes


def test_where_the_rows_came_from_is_recorded(garden: Path, tmp_path: Path) -> None:
    file = jsonl(tmp_path / "rows.jsonl", {"prompt": "a", "completion": "b"})
    stated = Provenance("dolly-15k", "cc-by-sa-3.0", "people")
    assert pipeline.import_rows(garden, file, provenance=stated).notes == []
    with open_store(garden) as db:
        (source,) = records.list_sources(db)
    assert (source.source, source.name, source.license, source.written_by, source.file) == (
        hashlib.sha256(file.read_bytes()).hexdigest(), "dolly-15k", "CC-BY-SA-3.0", "people", "rows.jsonl",
    )  # fmt: skip


def test_what_nobody_stated_is_unknown_and_can_be_stated_later(garden: Path, tmp_path: Path) -> None:
    file = jsonl(tmp_path / "rows.jsonl", {"prompt": "a", "completion": "b"})
    said = "rows.jsonl: its origin is recorded as unknown. To state it, run the same import again with "
    said += "--source NAME --license SPDX --written-by people|model."
    assert pipeline.import_rows(garden, file).notes == [said]
    assert pipeline.import_rows(garden, file, provenance=Provenance("forum", "MIT", "people")).notes == []
    assert pipeline.import_rows(garden, file).notes == []
    conflict = "rows.jsonl: its license was recorded as MIT by an earlier import; it is CC0-1.0 now."
    assert pipeline.import_rows(garden, file, provenance=Provenance(license="cc0-1.0")).notes == [conflict]
    with open_store(garden) as db:
        assert [(s.name, s.license, s.written_by) for s in records.list_sources(db)] == [("forum", "CC0-1.0", "people")]


def test_a_license_that_does_not_exist_is_refused_with_those_that_look_like_it(garden: Path, tmp_path: Path) -> None:
    file = jsonl(tmp_path / "rows.jsonl", {"prompt": "a", "completion": "b"})
    with pytest.raises(ProjectError, match=r"--license 'CC BY 4\.0': is not an SPDX license\. Next: did you mean CC-BY-4\.0"):
        pipeline.import_rows(garden, file, provenance=Provenance(license="CC BY 4.0"))
    with open_store(garden) as db:
        assert records.list_sources(db) == [] and records.list_rows(db, "instruction") == []


def groups(folder: Path) -> list[str | None]:
    with open_store(folder) as db:
        return [row.seed_group for row in records.list_rows(db, "instruction")]


def test_a_group_is_a_column_and_an_empty_value_is_no_group(garden: Path, tmp_path: Path) -> None:
    tickets = ["T-1", "T-1", "", None, 7, "T-2"]
    rows = [{"prompt": f"q{n}", "completion": "a", "ticket": ticket} for n, ticket in enumerate(tickets)]
    pipeline.import_rows(garden, jsonl(tmp_path / "rows.jsonl", *rows, {"prompt": "q6", "completion": "a"}), group="ticket")
    assert groups(garden) == ["ticket:T-1", "ticket:T-1", None, None, "ticket:7", "ticket:T-2", None]
    assert metadata(garden)[0] == {"ticket": "T-1"}


def test_a_group_column_that_is_not_there_is_refused_with_those_that_are(garden: Path, tmp_path: Path) -> None:
    file = jsonl(tmp_path / "rows.jsonl", {"prompt": "a", "completion": "b", "thread": 1})
    with pytest.raises(ProjectError, match=r"--group ticket: rows\.jsonl has no such column; it has prompt, completion, thread"):
        pipeline.import_rows(garden, file, group="ticket")
    assert groups(garden) == []
