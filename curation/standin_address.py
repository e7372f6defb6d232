"""Where the offline stand-in of a project listens. Apart from the stand-in itself, so that the stages can find it without
importing it."""

from __future__ import annotations

import json
from pathlib import Path

from curation.errors import ModelUnavailable, command

STATE = ".standin.json"


def read_address(folder: Path) -> str:
    """The address in FOLDER/.standin.json.

    Raises:
        ModelUnavailable: it was never started here.
    """
    path = folder / STATE
    if not path.is_file():
        start = command("curate", "standin", "start", folder, "--log", "standin-log")
        raise ModelUnavailable("the offline stand-in", "is not running for this project", start)
    return str(json.loads(path.read_text(encoding="utf-8"))["url"])
