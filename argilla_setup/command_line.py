"""What the three command lines print with: texts and JSON that no terminal acts on, and usage errors that quote safely."""

from __future__ import annotations

import json
import re
import sys
from typing import Any

from typer.core import TyperGroup

from argilla_setup.shown import FORMATS, mask_secrets, visible

_IN_JSON = re.compile(f"[\x7f-\x9f{FORMATS}]")  # the other controls are escaped by JSON itself


def as_json(value: Any, *, indent: int | None = None) -> str:
    """Return JSON that any parser reads back and no terminal acts on."""
    text = json.dumps(value, ensure_ascii=False, indent=indent, default=str)
    return _IN_JSON.sub(lambda found: json.dumps(found[0])[1:-1], text)


def echo(text: str, *, err: bool = False) -> None:
    """Print a text of ours that may quote others: visible, and without secrets."""
    print(visible(mask_secrets(text)), file=sys.stderr if err else sys.stdout, flush=True)


class QuotingGroup(TyperGroup):
    """The root of a command line. Usage errors quote the arguments they are about; these are made visible too."""

    def make_context(self, *args: Any, **more: Any) -> Any:
        try:
            return super().make_context(*args, **more)
        except Exception as error:
            _make_visible(error)
            raise

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except Exception as error:
            _make_visible(error)
            raise


def _make_visible(error: Any) -> None:
    if hasattr(error, "format_message"):
        message = visible(mask_secrets(error.format_message()))
        error.format_message = lambda: message
