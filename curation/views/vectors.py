"""Embeddings of texts, read from the workbench where they exist."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from curation.embed import embed, model_digest
from curation.store import facts
from curation.workspace import Workspace


def vectors_of(workspace: Workspace, texts: Sequence[str], *, notify: Callable[[str], None] | None = None) -> np.ndarray[Any, Any]:
    """Return L2-normalized vectors, float32 (texts, dimensions); texts without a stored vector are embedded.

    Args:
        workspace: the open project.
        texts: to embed.
        notify: called with the progress of the embedding.
    """
    model, backend = workspace.project.dedup.model, workspace.project.dedup.backend
    digest = model_digest(model)
    kept = facts.load_vectors(workspace.db, digest, set(texts))
    missing = [text for text in dict.fromkeys(texts) if text not in kept]
    if missing:
        counted = (lambda done, total: notify(f"embedding, {done} of {total}")) if notify else None
        made = embed(missing, model=model, backend=backend, progress=counted)
        new = {text: vector.astype(np.float32).tobytes() for text, vector in zip(missing, made, strict=True)}
        facts.add_vectors(workspace.db, digest, new)
        kept |= new
    return np.stack([np.frombuffer(kept[text], dtype=np.float32) for text in texts]) if texts else np.zeros((0, 0), dtype=np.float32)
