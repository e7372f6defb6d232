"""OpenVINO backend: the same network on a CPU, up to four times faster than torch, where it gives the same vectors.

A model is converted once and kept in the cache folder with the measurement that decides whether it is used: the lowest cosine to torch's
vectors on a sample of the texts, and the speed of both. Later runs need no torch and start in half a second. sentence-transformers' own
OpenVINO backend needs optimum, which holds sentence-transformers at 5.7.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np

Precision = Literal["bf16", "f32"]
Array = np.ndarray[Any, np.dtype[Any]]

LEAST_COSINE = 0.9999
"""Lowest cosine to torch's vector that every sampled text must reach."""
_TOKENS = 768
"""Tokens in a batch, padding included: small enough for one core's cache."""
_BLOCK = 4096


@dataclass(frozen=True)
class Measured:
    """Measurement of a converted model; with `precision` None torch stays in use."""

    precision: Precision | None
    reason: str
    cosine: float | None = None
    """Lowest on the sample."""
    rows_a_second: float | None = None
    torch_rows_a_second: float | None = None


@dataclass(frozen=True)
class Compiled:
    """A compiled network with its tokenizer."""

    network: Any
    tokenizer: Any
    size: int
    """Length of a vector."""

    def encode(self, texts: Sequence[str]) -> Iterator[Array]:
        """Yield L2-normalized vectors in the given order, a block at a time; batches hold texts of similar token length."""
        for start in range(0, len(texts), _BLOCK):
            yield self._encode(texts[start : start + _BLOCK])

    def _encode(self, texts: Sequence[str]) -> Array:
        # A ring of requests, each read before it is reused. OpenVINO's AsyncInferQueue calls Python from its own threads, where a run once
        # deadlocked.
        count = self.network.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS")
        ring = [(self.network.create_infer_request(), list[int]()) for _ in range(max(1, int(count)))]
        out = np.empty((len(texts), self.size), np.float32)

        def read(request: Any, rows: list[int]) -> None:
            if rows:
                request.wait()
                out[rows] = request.get_output_tensor(0).data

        ids = [encoding.ids for encoding in self.tokenizer.encode_batch(texts)]
        for turn, batch in enumerate(_batches([len(row) for row in ids])):
            width = len(ids[batch[-1]])
            tokens, mask = np.zeros((2, len(batch), width), np.int64)
            for place, row in enumerate(batch):
                tokens[place, : len(ids[row])], mask[place, : len(ids[row])] = ids[row], 1
            request, rows = ring[turn % len(ring)]
            read(request, rows)
            request.start_async({0: tokens, 1: mask})
            ring[turn % len(ring)] = (request, batch)
        for request, rows in ring:
            read(request, rows)
        return np.asarray(out / np.maximum(np.linalg.norm(out, axis=1, keepdims=True), 1e-12))


def is_installed() -> bool:
    """Return whether OpenVINO is installed."""
    import importlib.util

    return importlib.util.find_spec("openvino") is not None


def read_measured(digest: str) -> Measured | None:
    """Return the measurement of an earlier conversion, if there was one."""
    file = _folder(digest) / "measured.json"
    return Measured(**json.loads(file.read_text())) if file.is_file() else None


@lru_cache(maxsize=4)
def open_compiled(digest: str, precision: Precision) -> Compiled:
    """Open a model that has been converted."""
    import openvino
    from tokenizers import Tokenizer

    network = _compile(openvino.Core(), _folder(digest) / "model.xml", precision)
    return Compiled(
        network, Tokenizer.from_file(str(_folder(digest) / "tokenizer.json")), network.output(0).get_partial_shape()[1].get_length()
    )


def convert(digest: str, encoder: Any, sample: Sequence[str], *, by_torch: Callable[[Sequence[str]], Array]) -> Measured:
    """Convert a sentence-transformers model, compare it with the original on a sample, and keep both with the measurement.

    Args:
        digest: `model_digest` of the model.
        encoder: the loaded SentenceTransformer.
        sample: texts to compare on.
        by_torch: embeds texts with torch.
    """
    names = [type(module).__name__ for module in encoder]
    pooling = encoder[1].get_config_dict().get("pooling_mode") if len(names) > 1 else None
    if names != ["Transformer", "Pooling", "Normalize"] or pooling != "mean":
        measured = Measured(None, f"its modules are {', '.join(names)} ({pooling}), not a mean over tokens")
    else:
        measured = None
    folder = _folder(digest)
    folder.parent.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(prefix=".converting-", dir=folder.parent))
    try:
        if measured is None:
            _save(encoder, aside)
            measured = _measure(aside, sample, by_torch)
        (aside / "measured.json").write_text(json.dumps(asdict(measured)))
        shutil.rmtree(folder, ignore_errors=True)
        aside.rename(folder)  # another process sees either no conversion or a whole one
        return measured
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _measure(folder: Path, sample: Sequence[str], by_torch: Callable[[Sequence[str]], Array]) -> Measured:
    import openvino
    from tokenizers import Tokenizer

    tokenizer, core = Tokenizer.from_file(str(folder / "tokenizer.json")), openvino.Core()
    reference, torch_rate = _timed(lambda: by_torch(sample), len(sample))
    found = Measured(None, "no precision gives the same vectors")
    for precision in ("bf16", "f32"):  # the faster one first
        network = _compile(core, folder / "model.xml", precision)
        compiled = Compiled(network, tokenizer, reference.shape[1])
        vectors, rate = _timed(lambda c=compiled: np.concatenate(list(c.encode(sample))), len(sample))  # type: ignore[misc]
        cosine = float((vectors * reference).sum(axis=1).min())
        if cosine >= LEAST_COSINE and rate > torch_rate:
            return Measured(precision, "same vectors and faster", round(cosine, 6), round(rate, 1), round(torch_rate, 1))  # type: ignore[arg-type]
        found = Measured(
            None, "slower than torch here" if cosine >= LEAST_COSINE else f"cosine {cosine:.5f}", round(cosine, 6), rate, torch_rate
        )
    return found


def _timed(encode: Callable[[], Array], rows: int) -> tuple[Array, float]:
    start = time.perf_counter()
    vectors = encode()
    return vectors, rows / (time.perf_counter() - start)


def _save(encoder: Any, folder: Path) -> None:
    """Save the network from token ids to unit vectors, and the tokenizer with the model's maximum length."""
    import openvino
    import torch
    from transformers import AutoModel

    # Eager attention, which openvino.convert_model can trace.
    name = encoder[0].auto_model.config._name_or_path
    base = AutoModel.from_pretrained(name, attn_implementation="eager", trust_remote_code=False).eval()

    class Pooled(torch.nn.Module):  # torch traces modules only
        def forward(self, ids: Any, mask: Any) -> Any:
            hidden = base(input_ids=ids, attention_mask=mask).last_hidden_state
            weights = mask.unsqueeze(-1).to(hidden.dtype)
            return torch.nn.functional.normalize((hidden * weights).sum(1) / weights.sum(1).clamp(min=1e-9), dim=1)

    pooled = Pooled()
    pooled.base = base
    example = torch.ones(2, 8, dtype=torch.int64)
    shape = ([-1, -1], openvino.Type.i64)
    network = openvino.convert_model(pooled, example_input={"ids": example, "mask": example}, input=[shape, shape])
    # compress_to_fp16 is on by default and would change the f32 vectors.
    openvino.save_model(network, folder / "model.xml", compress_to_fp16=False)
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_str(encoder.tokenizer.backend_tokenizer.to_str())
    tokenizer.enable_truncation(encoder.max_seq_length)
    tokenizer.no_padding()
    tokenizer.save(str(folder / "tokenizer.json"))


def _compile(core: Any, file: Path, precision: str) -> Any:
    # By default OpenVINO uses the precision that is fastest on the CPU; f32 is pinned where vectors must be equal on every machine.
    options = {"PERFORMANCE_HINT": "THROUGHPUT"} | ({"INFERENCE_PRECISION_HINT": "f32"} if precision == "f32" else {})
    return core.compile_model(str(file), "CPU", options)


def _batches(lengths: Sequence[int]) -> Iterator[list[int]]:
    """Yield row numbers in batches of similar length, at most `_TOKENS` tokens each with padding."""
    rows: list[int] = []
    for row in sorted(range(len(lengths)), key=lengths.__getitem__):
        if rows and lengths[row] * (len(rows) + 1) > _TOKENS:
            yield rows
            rows = []
        rows.append(row)
    if rows:
        yield rows


def _folder(digest: str) -> Path:
    import openvino
    from platformdirs import user_cache_dir

    base = Path(os.environ.get("SEEDCORN_CACHE_DIR") or user_cache_dir("seedcorn"))
    return base / "embedding" / f"{digest[:16]}-openvino-{openvino.__version__.split('-')[0]}"
