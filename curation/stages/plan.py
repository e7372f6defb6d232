"""What a plan is made from, read from the project's folder: protected texts, tables, attribute files, documents. Core: plan/."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from curation.config.project import ValuesFile, settings_digest
from curation.errors import ProjectError
from curation.plan import (
    Asked,
    Cell,
    Row,
    Values,
    coverage,
    extra_cells,
    find_passages,
    make_plan,
    normalized,
    values_from_lines,
    values_from_table,
    written_values,
)
from curation.records import KINDS
from curation.stages.model_calls import check_before
from curation.store import records, runs
from curation.validate import load_table
from curation.views.protected import load_protected
from curation.workspace import StageResult, Workspace, load_cells, load_grounding, open_workspace


def lay_out(workspace: Workspace) -> list[Cell]:
    """Every cell of the project as its files stand now."""
    protected = [text for items in load_protected(workspace) for text in items.texts]
    passages = load_passages(workspace, protected)
    given: dict[str, Any] = {
        "table": load_grounding(workspace),
        "protected_texts": protected,
        "values": load_values(workspace),
        "passages": passages,
    }
    return make_plan(workspace.project, **given) + extra_cells(workspace.project, load_asked(workspace), **given)


def load_asked(workspace: Workspace) -> list[Asked]:
    """What every `curate balance` asked of the plan, as long as project.yaml still wants it."""
    settings = workspace.project.balance
    if settings.refill is None or settings.by is None:
        return []
    done = [run for run in runs.list_runs(workspace.db, "balance") if run["state"] == "done"]
    return [
        Asked(run["run"], kind, settings.by, run["detail"]["column"], run["detail"][kind]["asked"])
        for run in done
        if run["detail"]["by"] == settings.by
        for kind in KINDS
        if kind in run["detail"] and run["detail"][kind]["asked"]
    ]


def load_values(workspace: Workspace) -> dict[str, Values]:
    """The values of every attribute, those in files read.

    Raises:
        ProjectError: a file is missing, empty, or has no such column.
    """
    files = workspace.project.plan.attribute_files
    values = written_values(workspace.project)
    return {name: _read_values(workspace, name, files[name]) if name in files else known for name, known in values.items()}


def load_passages(workspace: Workspace, protected: list[str]) -> list[Row]:
    """The passages of the project's documents that may be shown.

    Raises:
        ProjectError: a pattern names no file, a file is no text, or no passage is left.
    """
    settings = workspace.project.plan.documents
    if settings is None:
        return []
    what = "project.yaml: plan.documents.files"
    documents: dict[str, str] = {}
    for pattern in settings.files:
        found = sorted(path for path in workspace.folder.glob(pattern) if path.is_file())
        if not found:
            raise ProjectError(what, f"{pattern} names no file in {workspace.folder}", "mend the pattern, or put the files there")
        for path in found:
            try:
                documents[path.relative_to(workspace.folder).as_posix()] = path.read_text(encoding="utf-8")
            except UnicodeDecodeError as error:
                raise ProjectError(what, f"{path} is not UTF-8 text (byte {error.start})", "save it as .txt or .md in UTF-8") from error
    passages = find_passages(documents, chunk_chars=settings.chunk_chars, protected={normalized(text) for text in protected})
    if not passages:
        fact = f"hold no passage to write about: {len(documents)} files, empty or with protected texts in every passage"
        raise ProjectError(what, fact, "look at the files and at screen.protected")
    return passages


def _read_values(workspace: Workspace, name: str, source: ValuesFile) -> Values:
    path = workspace.folder / source.file
    if not path.is_file():
        raise ProjectError(f"project.yaml: plan.attributes.{name}", f"there is no file {path}", "put it there, or write the values down")
    if path.suffix.lower() in (".csv", ".parquet"):
        return values_from_table(load_table(path), name, source)
    try:
        return values_from_lines(path.read_text(encoding="utf-8"), name, source)
    except UnicodeDecodeError as error:
        fact = f"{path} is not UTF-8 text (byte {error.start})"
        raise ProjectError(f"project.yaml: plan.attributes.{name}", fact, "one value a line, or a .csv or .parquet table") from error


def plan(folder: Path) -> StageResult:
    """Lay out what to write, cell by cell. Raising a count in project.yaml only adds cells. Core: plan/."""
    with open_workspace(folder) as workspace:
        known, notes = check_before(workspace)
        digest = settings_digest(workspace.project.plan)
        with runs.record_run(workspace.db, "plan", digest) as run:
            made = [(c.id, c.kind, c.ordinal, c.model_dump_json().encode()) for c in lay_out(workspace)]
            added, changed, gone = records.refresh_cells(workspace.db, made)
            cells = load_cells(workspace)
            run.rows_in = run.rows_out = len(cells)
            done = records.cells_made(workspace.db)
        shares = coverage(cells, done)
        by_kind = dict[str, int]((kind, sum(c.kind == kind for c in cells)) for kind in KINDS)
        moved = {name: n for name, n in (("changed", changed), ("gone", gone)) if n}
        counts = {"cells": len(cells), "new": added, **moved, **by_kind, "attributes": shares}
        return StageResult("plan", len(cells), len(cells), {**counts, "models": known}, notes)
