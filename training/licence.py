"""What a licence lets an adapter be used for, and where a base model's licence is recorded.

A licence nobody has recorded is refused, not guessed: the answer is one line in the run file.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import yaml

from training.config import TrainingError, Use

RECORD = "base-model.json"
"""Written beside a checkpoint by `train prepare-model`: id, licence, source, note."""

# Terms of the licences themselves. A condition does not stop a run; it is repeated in preflight.json, on the screen and on the card.
_OPEN = dict.fromkeys(("apache-2.0", "mit", "bsd-2-clause", "bsd-3-clause", "isc", "cc0-1.0", "pddl-1.0", "unlicense"), "")
_META = "Meta's acceptable-use policy applies, and above 700 million monthly users a licence from Meta is needed"
_CONDITIONAL = {
    "llama2": _META,
    "llama3": f"the adapter's name must start with 'Llama 3' and 'Built with Meta Llama 3' be shown; {_META}",
    **dict.fromkeys(
        ("llama3.1", "llama3.2", "llama3.3", "llama4"),
        f"the adapter's name must start with 'Llama' and 'Built with Llama' be shown; {_META}",
    ),
    "gemma": "Gemma's prohibited-use policy must be passed on with the adapter",
    **dict.fromkeys(
        ("openrail", "openrail++", "creativeml-openrail-m", "bigcode-openrail-m", "bigscience-bloom-rail-1.0"),
        "the licence's use restrictions must be passed on with the adapter",
    ),
    **dict.fromkeys(("cc-by-4.0", "odc-by"), "its authors must be named"),
    "cc-by-sa-4.0": "its authors must be named, and what is adapted from it shared under the same licence",
}
_NOT_COMMERCIAL = ("cc-by-nc-4.0", "cc-by-nc-sa-4.0", "cc-by-nc-nd-4.0")
_RESEARCH_ONLY = ("mrl", "mnpl-0.1", "qwen-research")
_UNNAMED = ("other", "unknown")
"""What a card says when the licence is named elsewhere, or not at all."""


@dataclass(frozen=True)
class BaseModelRecord:
    """What is known about a base model, and from where."""

    id: str
    licence: str
    source: str
    note: str = ""


def find_base_record(folder: Path, *, declared: str | None = None) -> BaseModelRecord:
    """The base model's licence: its record, else the front matter of its README.md, else what the run file declares."""
    if not (folder / "config.json").is_file():
        fact = "is no checkpoint folder (no config.json)" if folder.exists() else "does not exist"
        raise TrainingError(f"base_model {folder}", fact, f"train prepare-model {folder}")
    record, readme = folder / RECORD, folder / "README.md"
    if record.is_file():
        return _read_record(record)
    if readme.is_file() and (licence := _card_licence(readme)):
        return BaseModelRecord(folder.name, licence, "README.md of the base model")
    if declared:
        return BaseModelRecord(folder.name, declared, "base_licence in the run file")
    raise TrainingError(
        f"base_model {folder}", "records no licence", "read the model's licence, then add base_licence: SPDX-ID to the run file"
    )


def check_use(licence: str, use: Use, *, of: str) -> str:
    """The condition that goes with using something under this licence ('' for none); refuses what the licence does not allow."""
    key = licence.strip().lower().removeprefix("license:").strip()
    if key in _OPEN:
        return _OPEN[key]
    if key in _CONDITIONAL:
        return _CONDITIONAL[key]
    if (key in _NOT_COMMERCIAL and use == "commercial") or (key in _RESEARCH_ONLY and use != "research"):
        raise TrainingError(f"{of}: licence {licence}", f"does not allow use: {use}", "change use in the run file, or take another one")
    if key in _NOT_COMMERCIAL or key in _RESEARCH_ONLY:
        return f"not for {'commercial' if key in _NOT_COMMERCIAL else 'any but research'} use"
    if use == "research":
        return f"'{licence}' is not in our list; its terms were not checked"
    raise TrainingError(f"{of}: licence {licence}", f"is not one whose terms we know, so use: {use} cannot be checked", "set use: research")


def _read_record(record: Path) -> BaseModelRecord:
    try:
        value = json.loads(record.read_text())
        return BaseModelRecord(str(value["id"]), str(value["licence"]), str(value.get("source", "")), str(value.get("note", "")))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        fact = "is no JSON object with id and licence"
        raise TrainingError(str(record), fact, "mend it, or delete it and set base_licence in the run file") from error


def _card_licence(readme: Path) -> str | None:
    """The licence a model card names; `other` with a license_name means that name, and alone it means nothing."""
    front = _front_matter(readme)
    named = [str(front[key]) for key in ("license", "license_name") if front.get(key)]
    return next((name for name in named if name.lower() not in _UNNAMED), None)


def _front_matter(readme: Path) -> dict[str, object]:
    parts = readme.read_text(errors="replace").split("---", 2)
    if len(parts) < 3 or parts[0].strip():
        return {}
    try:
        value = yaml.safe_load(parts[1])
    except yaml.YAMLError:
        return {}
    return value if isinstance(value, dict) else {}
