"""Quiet the libraries that print to the terminal on their own."""

from __future__ import annotations

import logging
import os


def quiet_libraries() -> None:
    """Keep other people's progress bars and notices off the screen; our own say what is going on."""
    os.environ.setdefault("TQDM_DISABLE", "1")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    for name in ("argilla.sdk", "bitsandbytes", "httpx", "sentence_transformers", "transformers"):
        logging.getLogger(name).setLevel(logging.ERROR)
