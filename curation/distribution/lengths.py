"""How long texts are, in characters and in tokens."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from curation.distribution.facts import Spread
from curation.errors import ProjectError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_BARS = 24
_BATCH = 2_000


def load_tokenizer(path: Path) -> Tokenizer:
    """The tokenizer of a model's folder, or of one tokenizer.json, without its truncation and padding.

    Raises:
        ProjectError: there is no such file, or it is no tokenizer.
    """
    from tokenizers import Tokenizer

    file = path / "tokenizer.json" if path.is_dir() else path
    if not file.is_file():
        raise ProjectError(
            f"tokenizer {path}", "holds no tokenizer.json", "name the folder of your base model, or leave describe.tokenizer out"
        )
    try:
        tokenizer = Tokenizer.from_file(str(file))
    except Exception as error:  # tokenizers raises a bare Exception
        raise ProjectError(
            f"tokenizer {file}", f"cannot be read ({error})", "name a tokenizer.json that the library tokenizers wrote"
        ) from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def measure_lengths(texts: Sequence[str] | pa.Array, *, tokenizer: Tokenizer | None = None) -> pa.Table:
    """Characters (code points) and tokens of each text; tokens are null without a tokenizer.

    Special tokens are not counted. Time and memory grow with the characters; 2,000 texts are tokenized at a time.
    """
    plain: list[str] = texts.to_pylist() if isinstance(texts, pa.Array | pa.ChunkedArray) else list(texts)
    characters = pa.array([len(text) for text in plain], pa.int64())
    if tokenizer is None:
        return pa.table({"characters": characters, "tokens": pa.nulls(len(plain), pa.int64())})
    counts: list[int] = []
    for start in range(0, len(plain), _BATCH):
        block = [text.encode("utf-8", "replace").decode() for text in plain[start : start + _BATCH]]
        counts += [len(made.ids) for made in tokenizer.encode_batch_fast(block, add_special_tokens=False)]
    return pa.table({"characters": characters, "tokens": pa.array(counts, pa.int64())})


def spread_of(values: Sequence[float] | np.ndarray[Any, Any]) -> Spread:
    """Mean, quantiles and bars; the bars reach to the 99th percentile, so that one huge row does not flatten them."""
    numbers = np.asarray(values, dtype=np.float64)
    if not len(numbers):
        return Spread(count=0, mean=0, low=0, p5=0, median=0, p95=0, high=0)
    low, p5, median, p95, p99, high = (float(q) for q in np.quantile(numbers, (0, 0.05, 0.5, 0.95, 0.99, 1)))
    step = max(1.0, np.ceil((p99 - low) / _BARS))
    edges = low + step * np.arange(int((p99 - low) // step) + 2)
    bars, _ = np.histogram(np.minimum(numbers, edges[-1]), bins=edges)
    return Spread(
        count=len(numbers), mean=float(numbers.mean()), low=low, p5=p5, median=median, p95=p95, high=high,
        edges=tuple(float(edge) for edge in edges), bars=tuple(int(bar) for bar in bars),
    )  # fmt: skip
