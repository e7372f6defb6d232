"""The description of a model as the Models API gives it."""

from __future__ import annotations

from typing import Any

from tests.support.model_calls import MODEL


def describe(**more: Any) -> dict[str, Any]:
    shape = {"id": MODEL, "type": "model", "display_name": "Sonnet", "created_at": "2026-01-01T00:00:00Z", "lifecycle": "active"}
    return {**shape, "retires_at": None, "max_input_tokens": 200_000, "max_tokens": 64_000, **more}
