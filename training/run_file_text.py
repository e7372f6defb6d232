"""A run file as a person wrote it: read as YAML that says each key once, and what does not fit in it as a sentence with the key's path."""

from __future__ import annotations

import difflib
import typing
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

_SHAPES = {
    "tuple_type": "must be a list",
    "string_type": "must be a text",
    "model_type": "must hold keys of its own",
    "bool_parsing": "must be true or false",
    "float_parsing": "must be a number",
    "int_parsing": "must be a whole number",
    "int_from_float": "must be a whole number",
}


class _OnceLoader(yaml.SafeLoader):
    """Refuses a key that stands twice, where YAML would take the last one in silence."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        names = [self.construct_object(key, deep=True) for key, _ in node.value]  # type: ignore[no-untyped-call]
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise yaml.constructor.ConstructorError(problem=f"the key {twice} stands twice", problem_mark=node.start_mark)
        return super().construct_mapping(node, deep=deep)


def read_yaml(path: Path) -> Any:
    """The values in a YAML file; raises ValueError with a sentence when it is none."""
    try:
        return yaml.load(path.read_text(encoding="utf-8"), Loader=_OnceLoader)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"is not YAML ({' '.join(str(error).split())})") from error


def explain(error: ValidationError, model: type[BaseModel]) -> tuple[str, str, str | None]:
    """The first mistake as key path, fact, and for a typo the nearest known key."""
    # A typo shows as an unknown key and a missing one: the unknown one says more.
    first = sorted(error.errors(), key=lambda e: e["type"] != "extra_forbidden")[0]
    # Of a value that may have several types, pydantic names the type it tried.
    keys = [str(part) for part in first["loc"] if not (isinstance(part, str) and ("[" in part or "(" in part))]
    where = ".".join(keys) or "run file"
    if first["type"] == "missing":
        return where, "is missing", None
    if first["type"] == "extra_forbidden":
        near = difflib.get_close_matches(keys[-1], _known_keys(model, keys[:-1]), n=1, cutoff=0.5)
        return where, "is not a key of a run file", f"did you mean {near[0]}?" if near else None
    if first["type"] == "value_error":
        return where, first["msg"].removeprefix("Value error, "), None
    return where, f"{_SHAPES.get(first['type'], first['msg'])}; it is {first['input']!r}", None


def _known_keys(model: type[BaseModel], parents: list[str]) -> list[str]:
    for key in parents:
        inner = _model_in(model.model_fields[key].annotation) if key in model.model_fields else None
        if inner is None:
            return []
        model = inner
    return [field.alias or name for name, field in model.model_fields.items()]


def _model_in(annotation: Any) -> type[BaseModel] | None:
    for kind in (annotation, *typing.get_args(annotation)):
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            return kind
    return None
