"""What a request asks, read from its text alone: the stand-in has no other way in than a model has."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass, field
from typing import Any, Literal

Role = Literal["instruction", "preference", "conversation", "answer", "judge", "judge_pair", "leak_judge", "other"]
_ROLES: dict[str, Role] = {
    "examples": "instruction",
    "pairs": "preference",
    "conversations": "conversation",
    "answer": "answer",
    "scores": "judge",
    "winner": "judge_pair",
    "same": "leak_judge",
}


@dataclass(frozen=True)
class Asked:
    """A request, taken apart."""

    role: Role
    sha: str
    """sha256 (hex) of the body."""
    text: str
    schema: dict[str, Any] | None
    brief: str = ""
    output_format: str = ""
    standing: str | None = None
    """The standing instruction, where the prompt names one."""
    parts: dict[str, Any] = field(default_factory=dict)
    """The tagged parts of the user text, JSON read."""

    def part(self, name: str, default: Any = None) -> Any:
        """One tagged part, or the default."""
        value = self.parts.get(name)
        return default if value is None else value

    @property
    def number(self) -> int:
        """The number the request carries, else one made from the body."""
        value = self.parts.get("number")
        return value if isinstance(value, int) else int(self.sha[:6], 16)

    @property
    def is_bare(self) -> bool:
        """Whether nothing in it tells it from the same request asked before."""
        return "number" not in self.parts and "examples_to_write" not in self.parts

    @property
    def candidates(self) -> int:
        """How many examples with a probability are asked for in the place of one; 0 where none are."""
        lists = [part for part in ((self.schema or {}).get("properties") or {}).values() if isinstance(part, dict)]
        items = [part.get("items", {}).get("properties", {}) for part in lists if isinstance(part.get("items"), dict)]
        found = re.search(r"asked for (\d+) candidates", self.text) if any("probability" in item for item in items) else None
        return int(found[1]) if found else 0


def read_request(body: dict[str, Any]) -> Asked:
    """Take a Messages body apart."""
    system, user = _text(body.get("system") or ""), "\n\n".join(_text(m.get("content", "")) for m in body.get("messages", []))
    schema = ((body.get("output_config") or {}).get("format") or {}).get("schema")
    properties = schema.get("properties", {}) if isinstance(schema, dict) else {}
    role: Role = next((role for name, role in _ROLES.items() if name in properties), "other")
    standing = re.search(r'standing instruction(?:, unchanged:)? ("(?:[^"\\]|\\.)*")', system)
    return Asked(
        role=role,
        sha=body_sha(body),
        text=f"{system}\n\n{user}".strip(),
        schema=schema,
        brief=_tag(system, "brief"),
        output_format=_tag(system, "output_format"),
        standing=json.loads(standing.group(1)) if standing else None,
        parts={"rubric": _json(_tag(system, "rubric")), **{name: _json(value) for name, value in _tags(user).items()}},
    )


def body_sha(body: dict[str, Any]) -> str:
    """sha256 (hex) of a body, keys sorted: the same request has it however it was written."""
    return hashlib.sha256(json.dumps(body, sort_keys=True, ensure_ascii=False).encode("utf-8", "surrogatepass")).hexdigest()


def count_tokens(text: str) -> int:
    """A rough token count: four characters a token, as for English text."""
    return max(1, len(text) // 4)


def answer_fields(answer: str) -> dict[str, str]:
    """The "Name: value" lines of an answer, names in lower case."""
    return {name.lower(): value.strip() for name, value in re.findall(r"(?m)^([A-Z][A-Za-z ]{1,30}): (.+)$", answer)}


def format_fields(output_format: str) -> list[str]:
    """The names of the lines an output format asks for."""
    return [name.lower() for name in re.findall(r"(?m)^([A-Z][A-Za-z ]{1,30}):", output_format)]


def _tags(text: str) -> dict[str, str]:
    return {m.group(1): m.group(2) for m in re.finditer(r"(?s)<([a-z_]+)>\n?(.*?)\n?</\1>", text)}


def _tag(text: str, name: str) -> str:
    return _tags(text).get(name, "").strip()


def _json(value: str) -> Any:
    try:
        return json.loads(value)
    except ValueError:
        return value


def _text(content: Any) -> str:
    if isinstance(content, str):
        return content
    return "".join(block.get("text", "") for block in content if isinstance(block, dict))
