"""Licences: the base model's record, and a table of what each licence allows an adapter to be used for.

Nothing is guessed. A licence that is not recorded, is not in the table or depends on the user becomes a question, for every use. The
answer is a line in the run file and is recorded with the run. The conditions are those of the licence texts.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, replace
from pathlib import Path

import yaml

from training.config import LicenceAnswers, Use
from training.errors import TrainingError

RECORD = "base-model.json"
"""File in a checkpoint folder, written by `train prepare-model`: id, licence, source, note."""

# A condition does not stop a run; it is repeated in preflight.json, on the screen and on the card.
_OPEN = dict.fromkeys(
    (
        *("apache-2.0", "mit", "mit-0", "bsd-2-clause", "bsd-3-clause", "bsd-3-clause-clear", "isc", "zlib", "bsl-1.0", "0bsd"),
        *("wtfpl", "cc0-1.0", "pddl-1.0", "unlicense", "cdla-permissive-1.0", "cdla-permissive-2.0"),
    ),
    "",
)
_META = "Meta's acceptable-use policy applies, and above 700 million monthly users a licence from Meta is needed"
_NAMED, _SAME = "its authors must be named", "what is adapted from it must be shared under the same licence"
_CONDITIONAL = {
    "llama2": _META,
    "llama3": f"the adapter's name must start with 'Llama 3' and 'Built with Meta Llama 3' be shown; {_META}",
    **dict.fromkeys(
        ("llama3.1", "llama3.2", "llama3.3", "llama4"),
        f"the adapter's name must start with 'Llama' and 'Built with Llama' be shown; {_META}",
    ),
    **dict.fromkeys(("qwen", "tongyi-qianwen"), "the licence agreement must be passed on and 'Improved using Qwen' be shown"),
    **dict.fromkeys(
        ("falcon-llm-license", "falcon-180b-license", "falcon-180b-tii-license", "falcon-mamba-license", "falcon-mamba-7b-license"),
        "TII's acceptable-use policy must be passed on with the adapter",
    ),
    "gemma": "Gemma's prohibited-use policy must be passed on with the adapter",
    **dict.fromkeys(
        ("openrail", "openrail++", "creativeml-openrail-m", "bigcode-openrail-m", "bigscience-bloom-rail-1.0"),
        "the licence's use restrictions must be passed on with the adapter",
    ),
    **dict.fromkeys(("cc-by-2.0", "cc-by-2.5", "cc-by-3.0", "cc-by-4.0", "odc-by", "odc-by-1.0", "ogl-uk-3.0"), _NAMED),
    "cc-by-nd-4.0": f"{_NAMED}, and changed versions must not be shared; ask the licensor whether an adapter is one",
    **dict.fromkeys(("cc-by-sa-3.0", "cc-by-sa-4.0"), f"{_NAMED}, and {_SAME}"),
    **dict.fromkeys(("odbl-1.0", "cdla-sharing-1.0", "gfdl-1.3-only", "gfdl-1.3-or-later"), f"{_NAMED}, and {_SAME}"),
    **dict.fromkeys(("gpl-3.0-only", "gpl-3.0-or-later", "gpl-2.0-only", "gpl-2.0-or-later", "mpl-2.0"), _SAME),
    **dict.fromkeys(("agpl-3.0-only", "agpl-3.0-or-later"), f"{_SAME}, also with those who use it over a network"),
}
_NOT_COMMERCIAL = ("cc-by-nc-4.0", "cc-by-nc-sa-4.0", "cc-by-nc-nd-4.0", "cc-by-nc-3.0", "cc-by-nc-sa-3.0")
_RESEARCH_ONLY = ("mrl", "mnpl-0.1", "qwen-research", "tongyi-qianwen-research", "apple-amlr")
_UNNAMED = ("other", "unknown")
"""Values of a card whose licence is named elsewhere, or not at all."""


@dataclass(frozen=True)
class Question:
    """A question that a licence depends on, answered by yes or no in the run file."""

    key: str
    """The field of `licence_answers`."""
    text: str
    stops: str
    """Why the answer yes stops the run; empty if it does not."""


_MANY_USERS = Question(
    "users_above_700m", "do the products you offer it in have more than 700 million monthly users?", "a licence from Meta is needed"
)
_QWEN_USERS = Question(
    "users_above_100m",
    "do the products you offer it in have more than 100 million monthly users?",
    "a licence from Alibaba Cloud is needed",
)
_IN_EU = Question(
    "based_in_eu",
    "are you domiciled, or is your company's principal place of business, in the European Union?",
    "the licence grants no rights to the multimodal models of Llama 4 there",
)
_HOSTED = Question("hosted_service", "will others use it over a hosted service (an API, a web site)?", "")
_QUESTIONS: dict[str, tuple[Question, ...]] = {
    **dict.fromkeys(("llama2", "llama3", "llama3.1", "llama3.2", "llama3.3"), (_MANY_USERS,)),
    "llama4": (_MANY_USERS, _IN_EU),
    **dict.fromkeys(("qwen", "tongyi-qianwen"), (_QWEN_USERS,)),
    **dict.fromkeys(("falcon-llm-license", "falcon-mamba-license", "falcon-mamba-7b-license"), (_HOSTED,)),
    **dict.fromkeys(
        ("falcon-180b-license", "falcon-180b-tii-license"), (replace(_HOSTED, stops="hosting needs TII's written permission"),)
    ),
}


@dataclass(frozen=True)
class BaseModelRecord:
    """Name and licence of a base model, and their source."""

    id: str
    licence: str
    source: str
    note: str = ""


def find_base_record(folder: Path, *, declared: str | None = None) -> BaseModelRecord:
    """Return the base model's licence from its record, or else the front matter of its README.md, or else the run file.

    Args:
        folder: the base model.
        declared: `base_licence` of the run file.
    """
    if not (folder / "config.json").is_file():
        fact = "is not a checkpoint folder (no config.json)" if folder.exists() else "does not exist"
        raise TrainingError(f"base_model {folder}", fact, f"train prepare-model {folder}")
    record, readme = folder / RECORD, folder / "README.md"
    if record.is_file():
        try:
            value = json.loads(record.read_text())
            return BaseModelRecord(str(value["id"]), str(value["licence"]), str(value.get("source", "")), str(value.get("note", "")))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            fact = "is not a JSON object with id and licence"
            raise TrainingError(str(record), fact, "correct it, or delete it and set base_licence in the run file") from error
    if readme.is_file() and (licence := _card_licence(readme)):
        return BaseModelRecord(folder.name, licence, "README.md of the base model")
    if declared:
        return BaseModelRecord(folder.name, declared, "base_licence in the run file")
    raise TrainingError(
        f"base_model {folder}", "records no licence", "read the model's licence, then add base_licence: SPDX-ID to the run file"
    )


def check_use(licence: str, use: Use, *, of: str, answers: LicenceAnswers = LicenceAnswers()) -> str:
    """Return the condition for a use under this licence, with the user's answers; an empty string for none.

    Args:
        licence: an SPDX identifier, a model hub's name for a licence, or an expression (A AND B: both apply; A OR B: the first that allows
            the use).
        use: the intended use of the adapter.
        of: the work under the licence, for the error.
        answers: the run file's answers to the licences' questions.

    Raises:
        TrainingError: the licence does not allow the use, or depends on a question that the run file does not answer.
    """
    # With brackets an OR may be inside an AND. Then every part has to allow the use, which is stricter than the expression.
    either = re.split(r"\s+OR\s+", licence) if "(" not in licence else [licence]
    for number, one in enumerate(either, start=1):
        try:
            parts = [part.strip(" ()") for part in re.split(r"\s+(?:AND|OR)\s+", one)]
            conditions = [_check_one(part, use, of=of, answers=answers) for part in parts]
        except TrainingError:
            if number == len(either):
                raise
            continue
        return "; ".join(dict.fromkeys(text for text in conditions if text))
    raise AssertionError("a licence has at least one part")


def _check_one(licence: str, use: Use, *, of: str, answers: LicenceAnswers) -> str:
    """Return the condition of a single licence."""
    key, what = licence.strip().lower().removeprefix("license:").strip(), f"{of}: licence {licence}"
    if (key in _NOT_COMMERCIAL and use == "commercial") or (key in _RESEARCH_ONLY and use != "research"):
        raise TrainingError(what, f"does not allow use: {use}", "change use in the run file, or take another one")
    if key in _NOT_COMMERCIAL or key in _RESEARCH_ONLY:
        return f"not for {'commercial' if key in _NOT_COMMERCIAL else 'any but research'} use"
    if key in _OPEN:
        return _OPEN[key]
    if key not in _CONDITIONAL:
        read = next((text for name, text in answers.terms_read.items() if name.strip().lower() == key and text.strip()), None)
        if read is None:
            fact = f"is not in our table. Do its terms allow use: {use}?"
            line = f"licence_answers: {{terms_read: {{{licence}: 'NAME, DATE: what they allow'}}}}"
            raise TrainingError(what, fact, f"read them and answer in the run file: {line}")
        return f"terms read by the user: {' '.join(read.split())}"
    conditions = [_CONDITIONAL[key]]
    for question in _QUESTIONS.get(key, ()):
        answer = getattr(answers, question.key)
        if answer is None:
            line = f"licence_answers: {{{question.key}: no}}"
            raise TrainingError(what, f"asks: {question.text}", f"answer in the run file, for example {line}")
        if answer and question.stops:
            raise TrainingError(what, f"{question.stops} ({question.key}: yes)", "get it from the licensor, or take another base model")
        # Question and answer go into run.json and onto the card, so that a reader sees what the run depended on.
        conditions.append(f"asked: {question.text} answered: {'yes' if answer else 'no'}")
    return "; ".join(conditions)


def _card_licence(readme: Path) -> str | None:
    """Return the licence in a model card's front matter; `other` with a license_name means that name, and alone it means none."""
    # The front matter is the YAML between the first two lines of dashes.
    parts = readme.read_text(errors="replace").split("---", 2)
    if len(parts) < 3 or parts[0].strip():
        return None
    try:
        front = yaml.safe_load(parts[1])
    except yaml.YAMLError:
        return None
    if not isinstance(front, dict):
        return None
    named = [str(front[key]) for key in ("license", "license_name") if front.get(key)]
    return next((name for name in named if name.lower() not in _UNNAMED), None)
