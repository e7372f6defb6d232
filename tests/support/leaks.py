"""Scores of rows against protected texts, in one call."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from curation.leakage.detector import LeakScreen


def score_leaks(
    texts: Sequence[str], protected: Mapping[str, Sequence[str]], *, labels: Sequence[str | None] | None = None, **settings: Any
) -> pa.Table:
    """One line per row, from a screen with these settings."""
    return LeakScreen(protected, **settings).score(texts, labels=labels)
