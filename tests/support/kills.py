"""What the kill tests buy, and copies of the project that they start from."""

from __future__ import annotations

import shutil
from pathlib import Path

ROWS = """
  SELECT o.cell, o.source, o.item, o.part, o.role, hex(r.id), o.better FROM origins o JOIN records r USING (seq)
  ORDER BY o.cell, o.source, o.item, o.part"""


FAILURES = "SELECT stage, slot, call, reason FROM failures ORDER BY 1, 2, 3"


SCORES = "SELECT hex(r.id), s.digest, s.criterion, s.value, s.rationale, s.call FROM scores s JOIN records r USING (seq) ORDER BY 1, 2, 3"


CHOICES = "SELECT hex(r.id), c.digest, c.shown, c.winner, c.rationale, c.call FROM choices c JOIN records r USING (seq) ORDER BY 1, 2, 3"


PER_CELL = "SELECT cell, count(*) FROM origins WHERE role = 'row' GROUP BY cell HAVING count(*) <> 1"


def copied(source: Path, target: Path) -> Path:
    """A project to disturb. The address of the stand-in goes along."""
    return Path(shutil.copytree(source, target))
