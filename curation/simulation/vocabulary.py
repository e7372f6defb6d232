"""Word lists of the mock provider and the simulated annotators, read from vocabulary.yaml."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict

Texts = tuple[str, ...]
Pairs = tuple[tuple[str, str], ...]
Words = Annotated[frozenset[str], BeforeValidator(str.split)]


class Vocabulary(BaseModel):
    """The lists of vocabulary.yaml; the comments there say how each is used."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    phrases: dict[str, Texts]
    openers: dict[str, Texts]
    statements: dict[str, Texts]
    closers: dict[str, Texts]
    distractors: Texts
    places: Texts
    reasons: Texts
    off_brief: Pairs
    abbreviations: Pairs
    swaps: Pairs
    questions: Texts
    openings: Texts
    middles: Texts
    endings: Texts
    conditions: Texts
    bad_advice: Texts
    topic_stop_words: Words
    trailing_stop_words: Words
    name_stop_words: Words
    text_stop_words: Words


VOCABULARY = Vocabulary.model_validate(yaml.safe_load((Path(__file__).parent / "vocabulary.yaml").read_text(encoding="utf-8")))
