"""Read a YAML file that people write, and say what does not fit in it: the line, the key path, and the nearest key for a typo."""

from __future__ import annotations

import difflib
import types
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import BaseModel, ValidationError

from curation.errors import ProjectError

_SHAPES = {
    "tuple_type": "must be a list",
    "list_type": "must be a list",
    "string_type": "must be a text",
    "model_type": "must hold keys of its own",
    "dict_type": "must hold keys of its own",
    "bool_parsing": "must be true or false",
    "float_parsing": "must be a number",
    "int_parsing": "must be a whole number",
    "int_from_float": "must be a whole number",
}
"""pydantic's words for what YAML calls otherwise."""


def read_yaml(path: Path) -> Any:
    """The values in a YAML file.

    Raises:
        ProjectError: it is not UTF-8, not YAML, or holds a key twice, with the line.
    """
    try:
        return yaml.load(path.read_text(encoding="utf-8"), Loader=_OnceLoader)
    except UnicodeDecodeError as error:
        raise ProjectError(str(path), f"is not UTF-8 text ({error.reason} at byte {error.start})", "save it as UTF-8") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{path}, line {mark.line + 1}" if mark else str(path)
        raise ProjectError(where, f"is not valid YAML ({getattr(error, 'problem', error)})", "mend the line and run again") from error


def describe_error(error: ValidationError, model: type[BaseModel], path: Path) -> tuple[str, str, str]:
    """The first error as (what with its key path, the fact, the next step), with the nearest known key for a typo."""
    # A typo shows as an unknown key and a missing one: the unknown one says more.
    first = sorted(error.errors(), key=lambda e: e["type"] != "extra_forbidden")[0]
    # Of a value that may have several types, pydantic names the type it tried.
    keys, known = _follow(model, [part for part in first["loc"] if not (isinstance(part, str) and ("[" in part or "(" in part))])
    what = f"{path}: {'.'.join(keys)}" if keys else str(path)
    others = f" ({len(error.errors()) - 1} more after this one)" if len(error.errors()) > 1 else ""
    if first["type"] == "extra_forbidden":
        near = difflib.get_close_matches(keys[-1], known, n=1)
        hint = f"; the nearest one is `{near[0]}` (did you mean that?)" if near else ""
        return what, f"is not a known key{hint}{others}", f"mend the key in {path.name} and run again"
    if first["type"] == "missing":
        return what, f"is missing{others}", f"add it to {path.name} and run again"
    fact = _SHAPES.get(first["type"]) or first["msg"].removeprefix("Value error, ")
    given = first.get("input")
    shown = f", found {given!r}" if isinstance(given, str | int | float | bool) else ""
    return what, f"{fact[:1].lower()}{fact[1:]}{shown}{others}", f"mend the value in {path.name} and run again"


class _OnceLoader(yaml.SafeLoader):
    """Refuses a key that stands twice, where YAML would take the last one in silence."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key, _ in node.value:
            name = self.construct_object(key, deep=True)
            if name in seen:
                raise yaml.constructor.ConstructorError(None, None, f"`{name}` stands twice", key.start_mark)
            seen.add(name)
        return super().construct_mapping(node, deep)


def _follow(model: type[BaseModel], loc: Sequence[str | int]) -> tuple[list[str], list[str]]:
    """The key path of an error as a person writes it, and the keys that are known where it ends."""
    path, known, here = list[str](), list[str](), [model]
    for part in loc:
        models = [inner for inner in here if _is_model(inner)]
        tagged = [m for m in models if len(models) > 1 and part in typing.get_args(m.model_fields["kind"].annotation)]
        if tagged:  # pydantic names the kind it chose, which is no key of the file
            here = tagged
            continue
        path.append(str(part))
        known = [field.alias or name for m in models for name, field in m.model_fields.items()]
        here = [option for inner in here for option in _options(_child(inner, part))]
    return path, known


def _child(annotation: Any, part: str | int) -> Any:
    """What may stand under a key of a model, a mapping or a list."""
    if _is_model(annotation):
        return next((field.annotation for name, field in annotation.model_fields.items() if part in (name, field.alias)), None)
    return next(reversed([a for a in typing.get_args(annotation) if a is not Ellipsis]), None)


def _options(annotation: Any) -> list[Any]:
    """The alternatives of a union, without their annotations."""
    if typing.get_origin(annotation) is Annotated:
        return _options(typing.get_args(annotation)[0])
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return [option for inner in typing.get_args(annotation) for option in _options(inner)]
    return [annotation]


def _is_model(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)
