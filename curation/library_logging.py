"""Silence libraries that print to the terminal."""

from __future__ import annotations

import logging
import os


def quiet_libraries() -> None:
    """Disable other libraries' progress bars and notices; this product prints its own."""
    os.environ.setdefault("TQDM_DISABLE", "1")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    for name in ("argilla.sdk", "bitsandbytes", "httpx", "sentence_transformers", "transformers"):
        logging.getLogger(name).setLevel(logging.ERROR)
