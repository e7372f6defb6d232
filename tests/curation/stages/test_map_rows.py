"""The map of the rows: computed, stored, read with rows that came later; and selections in conditions."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from curation import api as stages
from curation.errors import ProjectError
from curation.views.row_map import FILE, load_map
from curation.views.row_table import Query
from curation.views.selections import MOST, load_selections, save_selection
from curation.views.state import ProjectState
from curation.workspace import open_workspace
from tests.support.labelled import LABELS, add_vectors, labelled_project
from tests.support.projects import Bed


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return labelled_project(tmp_path_factory.mktemp("built") / "desk").folder


@pytest.fixture
def desk(built: Path, tmp_path: Path) -> Bed:
    return Bed(shutil.copytree(built, tmp_path / "desk"), tmp_path)


def test_the_map_is_stored_and_later_rows_get_the_place_of_their_nearest_row(desk: Bed) -> None:
    result = stages.map_rows(desk.folder, method="pca")
    assert result.counts["method"] == "pca" and (desk.folder / "serve" / FILE).stat().st_mode & 0o777 == 0o600
    file = desk.folder.parent / "more.jsonl"
    file.write_text('{"prompt": "one more", "completion": "top up"}\n{"prompt": "no vector", "completion": "x"}\n')
    stages.import_rows(desk.folder, file)
    add_vectors(desk.folder, ["one more"], [LABELS[2]], seed=5)
    with open_workspace(desk.folder) as workspace:
        found, missing = load_map(ProjectState(workspace))
    assert (len(found.seqs), missing) == (76, 1)
    same = np.flatnonzero((found.points[:-1] == found.points[-1]).all(axis=1))
    assert len(same) == 1 and same[0] >= 50  # a row of the third label


def test_without_a_stored_map_or_with_a_damaged_one_it_is_computed(desk: Bed) -> None:
    (desk.folder / "serve").mkdir(exist_ok=True)
    (desk.folder / "serve" / FILE).write_bytes(b"PK not a map")
    with open_workspace(desk.folder) as workspace:
        found, missing = load_map(ProjectState(workspace))
    assert (found.method, len(found.seqs), missing) == ("pca", 75, 0)


def test_a_project_that_embeds_nothing_has_no_map(desk: Bed) -> None:
    desk.set("^  semantic: .*$", "  semantic: null")
    with pytest.raises(ProjectError, match="embeds nothing"):
        stages.map_rows(desk.folder)


def test_a_selection_is_a_condition_everywhere(desk: Bed) -> None:
    seqs = [row.seq for row in desk.rows()[3:9]]
    name = save_selection(desk.folder, seqs)
    assert name == save_selection(desk.folder, [*reversed(seqs), seqs[0]])
    query = Query(f"selection('{name}') AND seq > {seqs[0]}")
    assert stages.rows(desk.folder, query).found == 5
    with pytest.raises(ProjectError, match="is not kept any more"):
        stages.rows(desk.folder, Query("selection('00000000')"))
    assert stages.override_many(desk.folder, query, action="drop", reason="cluster", confirmed=True).rows_out == 5
    with pytest.raises(ProjectError, match="has 0 rows"):
        save_selection(desk.folder, [])


def test_old_selections_are_forgotten(tmp_path: Path) -> None:
    names = [save_selection(tmp_path, [n]) for n in range(1, MOST + 4)]
    assert len(load_selections(tmp_path)) == MOST and load_selections(tmp_path)[names[-1]] == [MOST + 3]
