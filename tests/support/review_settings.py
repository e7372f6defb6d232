"""Change a project's `review:` and `score:` blocks."""

from __future__ import annotations

import re
from pathlib import Path

from tests.support.projects import Bed


def set_review(folder: Path, review: str, *, score: str | None = "null") -> Bed:
    """Replace the sections review and score of project.yaml; without Argilla and without vectors."""
    path = folder / "project.yaml"
    text = re.sub(r"(?ms)^review:.*?(?=^splits)", f"review: {review}\n", path.read_text())
    if score is not None:
        text = re.sub(r"(?ms)^score:.*?(?=^dedup)", f"score: {score}\n", text)
    path.write_text(re.sub(r"(?m)^  semantic: .*$", "  semantic: null", text))
    return Bed(folder, folder.parent)
