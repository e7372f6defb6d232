"""What models are told, as Markdown templates beside this file. Each has a `# System` and a `# User` part; what all requests
share stands first and what changes stands last, so that a provider can cache the long beginning.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache
from importlib.resources import files
from typing import Any, Literal

Name = Literal[
    "teacher_instruction",
    "teacher_preference",
    "teacher_conversation",
    "teacher_evolve",
    "teacher_answer",
    "teacher_naive",
    "judge",
    "judge_difficulty",
    "judge_pair",
    "leak_judge",
]


def fill(name: Name, **values: Any) -> tuple[str, str]:
    """The system text and the user text of a prompt. A value that is missing is an error, never an empty place."""
    system, user = _templates(name)
    return system.render(values).strip(), user.render(values).strip()


@lru_cache
def prompt_digest(name: Name) -> str:
    """sha256 (hex, 16 characters) of a prompt's template, recorded with what it made."""
    return hashlib.sha256(_source(name).encode()).hexdigest()[:16]


@lru_cache
def _templates(name: Name) -> tuple[Any, Any]:
    from jinja2 import Environment, StrictUndefined

    environment = Environment(undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, autoescape=False)
    environment.filters["json"] = _json
    system, user = _source(name).removeprefix("# System\n").split("\n# User\n")
    return environment.from_string(system), environment.from_string(user)


@lru_cache
def _source(name: Name) -> str:
    return files(__name__).joinpath(f"{name}.md").read_text(encoding="utf-8")


def _json(value: Any) -> str:
    import orjson

    # "<" escaped, so that no text can close the tag it stands in.
    return orjson.dumps(value).decode().replace("<", "\\u003c")
