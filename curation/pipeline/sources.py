"""What a plan is made from, read from the project's folder: protected texts, tables, attribute files, documents. Core: plan/."""

from __future__ import annotations

from typing import Any

from curation.errors import ProjectError
from curation.pipeline.bench import Bench, load_grounding, load_protected
from curation.plan import (
    Asked,
    Cell,
    Row,
    Values,
    extra_cells,
    find_passages,
    make_plan,
    normalized,
    values_from_lines,
    values_from_table,
    written_values,
)
from curation.project import ValuesFile
from curation.records import KINDS
from curation.store import runs
from curation.validate import load_table


def lay_out(bench: Bench) -> list[Cell]:
    """Every cell of the project as its files stand now."""
    protected = [text for items in load_protected(bench) for text in items.texts]
    passages = load_passages(bench, protected)
    given: dict[str, Any] = {
        "table": load_grounding(bench),
        "protected_texts": protected,
        "values": load_values(bench),
        "passages": passages,
    }
    return make_plan(bench.project, **given) + extra_cells(bench.project, load_asked(bench), **given)


def load_asked(bench: Bench) -> list[Asked]:
    """What every `curate balance` asked of the plan, as long as project.yaml still wants it."""
    settings = bench.project.balance
    if settings.refill is None or settings.by is None:
        return []
    done = [run for run in runs.list_runs(bench.db, "balance") if run["state"] == "done"]
    return [
        Asked(run["run"], kind, settings.by, run["detail"]["column"], run["detail"][kind]["asked"])
        for run in done
        if run["detail"]["by"] == settings.by
        for kind in KINDS
        if kind in run["detail"] and run["detail"][kind]["asked"]
    ]


def load_values(bench: Bench) -> dict[str, Values]:
    """The values of every attribute, those in files read.

    Raises:
        ProjectError: a file is missing, empty, or has no such column.
    """
    files = bench.project.plan.attribute_files
    values = written_values(bench.project)
    return {name: _read_values(bench, name, files[name]) if name in files else known for name, known in values.items()}


def load_passages(bench: Bench, protected: list[str]) -> list[Row]:
    """The passages of the project's documents that may be shown.

    Raises:
        ProjectError: a pattern names no file, a file is no text, or no passage is left.
    """
    settings = bench.project.plan.documents
    if settings is None:
        return []
    what = "project.yaml: plan.documents.files"
    documents: dict[str, str] = {}
    for pattern in settings.files:
        found = sorted(path for path in bench.folder.glob(pattern) if path.is_file())
        if not found:
            raise ProjectError(what, f"{pattern} names no file in {bench.folder}", "mend the pattern, or put the files there")
        for path in found:
            try:
                documents[path.relative_to(bench.folder).as_posix()] = path.read_text(encoding="utf-8")
            except UnicodeDecodeError as error:
                raise ProjectError(what, f"{path} is not UTF-8 text (byte {error.start})", "save it as .txt or .md in UTF-8") from error
    passages = find_passages(documents, chunk_chars=settings.chunk_chars, protected={normalized(text) for text in protected})
    if not passages:
        fact = f"hold no passage to write about: {len(documents)} files, empty or with protected texts in every passage"
        raise ProjectError(what, fact, "look at the files and at screen.protected")
    return passages


def _read_values(bench: Bench, name: str, source: ValuesFile) -> Values:
    path = bench.folder / source.file
    if not path.is_file():
        raise ProjectError(f"project.yaml: plan.attributes.{name}", f"there is no file {path}", "put it there, or write the values down")
    if path.suffix.lower() in (".csv", ".parquet"):
        return values_from_table(load_table(path), name, source)
    try:
        return values_from_lines(path.read_text(encoding="utf-8"), name, source)
    except UnicodeDecodeError as error:
        fact = f"{path} is not UTF-8 text (byte {error.start})"
        raise ProjectError(f"project.yaml: plan.attributes.{name}", fact, "one value a line, or a .csv or .parquet table") from error
