"""Preview other cuts, and write them into project.yaml."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from curation.config.project import load_project
from curation.errors import ProjectError
from curation.snapshot.write import replace_file
from curation.stages.verdicts import update_verdicts
from curation.views.state import ProjectState
from curation.views.what_if import Cuts, Preview, change_project, preview
from curation.workspace import StageResult, open_workspace


def what_if(folder: Path, cuts: Cuts) -> Preview:
    """Return what other cuts would change. Nothing is written.

    Args:
        folder: of the project.
        cuts: the other values.

    Raises:
        ProjectError: a value that the setting cannot have, or a cut below the one that dedup measured.
    """
    with open_workspace(folder) as workspace:
        return preview(ProjectState(workspace), cuts)


def apply_cuts(folder: Path, cuts: Cuts) -> StageResult:
    """Write other cuts into project.yaml, whose comments stay, and decide again.

    Args:
        folder: of the project.
        cuts: the other values.

    Raises:
        ProjectError: no value is given, or one that the setting cannot have.
    """
    sections = cuts.by_section()
    if not sections:
        raise ProjectError("cuts", "name no value", "name one, such as --threshold 8")
    change_project(load_project(folder), cuts)
    _write_settings(folder / "project.yaml", sections)
    with open_workspace(folder) as workspace:
        found = update_verdicts(workspace)
    stale = ["dedup.near and dedup.semantic take effect with the next `curate dedup`."] if "dedup" in sections else []
    return StageResult("what-if", found.rows_in, found.rows_out, {"written": sections, **found.counts}, [*stale, *found.notes])


def _write_settings(file: Path, sections: dict[str, dict[str, Any]]) -> None:
    from ruamel.yaml import YAML
    from ruamel.yaml.comments import CommentedMap
    from ruamel.yaml.error import YAMLError

    yaml = YAML()
    yaml.preserve_quotes, yaml.width = True, 1_000
    try:
        document = yaml.load(file.read_text(encoding="utf-8"))
    except (OSError, YAMLError) as error:
        raise ProjectError(str(file), "cannot be read", "correct it and run again") from error
    for section, values in sections.items():
        present = document.get(section)
        if isinstance(present, str):  # one word, such as `review: sample`
            document[section] = CommentedMap(mode=present)
        elif present is None:
            document[section] = CommentedMap()
        document[section].update(values)
    out = io.StringIO()
    yaml.dump(document, out)
    replace_file(file, out.getvalue().encode(), mode=file.stat().st_mode & 0o777)
