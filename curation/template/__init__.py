"""What `curate init` writes: a working project (icd10) or an honest empty one (blank)."""

from __future__ import annotations

import json
import re
import unicodedata
from pathlib import Path
from typing import Literal

from curation.errors import ProjectError, command

Template = Literal["icd10", "blank"]


def write_template(
    folder: Path,
    template: Template,
    *,
    offline: bool = False,
    instruction: int = 240,
    preference: int = 100,
    argilla: str | None = None,
    annotators: tuple[str, ...] = (),
    import_only: bool = False,
) -> None:
    """Write a new project into FOLDER; project.yaml goes last, so its presence means the rest is there.

    Args:
        instruction: examples to plan; also `preference`.
        argilla: folder of the Argilla server, relative to the project.
        import_only: for rows that exist already: nothing is planned, no judge scores, and nobody is asked to review.

    Raises:
        ProjectError: the folder already holds a project, or cannot be a project's name.
    """
    if (folder / "project.yaml").exists():
        raise ProjectError(str(folder), "already holds a project", command("curate", "status", folder))
    if folder.exists() and not folder.is_dir():
        raise ProjectError(str(folder), "is a file", "name a folder that does not exist yet")
    text = (Path(__file__).parent / f"{template}.yaml").read_text(encoding="utf-8")
    values = {
        "name": _as_text(name_of(folder)),
        "provider": "offline-stand-in" if offline else "anthropic",
        "instruction": str(instruction),
        "preference": str(preference),
        "argilla": json.dumps(argilla),
        "annotators": json.dumps(list(annotators)),
    }
    if import_only:
        values |= {"instruction": "0", "preference": "0"}
        text = _without_judge_and_people(text)
    for key, value in values.items():
        text = text.replace("{" + key + "}", value)
    try:
        _write(folder, template, text)
    except OSError as error:
        fact = f"cannot be written ({error.strerror or error})"
        raise ProjectError(str(folder), fact, "make space or name another folder, and run again") from error


def _without_judge_and_people(text: str) -> str:
    text = re.sub(
        r"(?m)^score:.*\n(?:[ #].*\n)*",
        "score: null                     # no judge scores the rows; give a rubric to have them scored\n",
        text,
    )
    return re.sub(r"(?m)^  mode: all {5}", "  mode: none    ", text)


def name_of(folder: Path) -> str:
    """A folder's name as a project's: small letters without their accents, digits, - and _."""
    plain = unicodedata.normalize("NFKD", folder.resolve().name.casefold())
    plain = "".join(c for c in plain if not unicodedata.combining(c))
    return re.sub(r"[^a-z0-9_-]+", "-", plain).strip("-_")[:41] or "project"


def _write(folder: Path, template: Template, text: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "protected").mkdir(exist_ok=True)
    if template == "icd10":
        from curation.template.icd10 import write_tables

        write_tables(folder)
    else:
        (folder / "seeds.jsonl").touch()
    aside = folder / ".project.yaml.partial"
    try:
        aside.write_text(text, encoding="utf-8")
        aside.rename(folder / "project.yaml")
    finally:
        aside.unlink(missing_ok=True)


def _as_text(name: str) -> str:
    """A name as YAML reads it back as text: `2026`, `no` and `null` need quotes."""
    import yaml

    return name if yaml.safe_load(name) == name else json.dumps(name)
