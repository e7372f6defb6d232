"""Answers of people who did all that people do."""

from __future__ import annotations

import random
from typing import Any

from curation.store.reviews import StoredAnswer


def random_answers(seed: int, n: int = 300) -> list[StoredAnswer]:
    """Answers that were changed, withdrawn, given twice to one row, or hold texts with the separators of columns."""
    rng = random.Random(seed)
    bodies: list[dict[str, Any]] = [
        {"verdict": "approve"}, {"verdict": "reject", "comment": "not\x1ftrue\x1e"}, {"verdict": "approve", "edited_completion": "é" * 300},
        {}, {"verdict": None, "comment": "\x1e"},
    ]  # fmt: skip
    users = ["ada", "ben", "Zoë", "odd\x1fname", "\x1e", ""]
    return [
        StoredAnswer(
            f"{rng.choice('17r')}{rng.randrange(n // 6)}", f"2026-11-{rng.randrange(10, 20)}", rng.randrange(1, 40), rng.choice(users),
            rng.choice(["submitted", "submitted", "draft", "discarded"]), rng.choice(bodies), rng.choice(["p", "q"]), "form",
            rng.random() < 0.2,
        )
        for _ in range(n)
    ]  # fmt: skip
