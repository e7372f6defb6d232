"""Describe a set of rows and compare it with real user data.

`describe` counts lengths, languages, topics, stock phrases and PII; `compare` measures the distance to a sample of real use. Each `find_`
function can be used alone on texts and returns an Arrow table with the position of every finding.
"""

from curation.distribution.drift import Sample, compare, find_uncovered, mmd_test, separability
from curation.distribution.pii import find_pii, mask_pii
from curation.distribution.profile import (
    RowInfo,
    describe,
    find_languages,
    find_openings,
    find_phrases,
    load_tokenizer,
    measure_lengths,
    spread_of,
)
from curation.distribution.schema import Comparison, Description
from curation.distribution.topics import find_topics

__all__ = [
    "Comparison",
    "Description",
    "RowInfo",
    "Sample",
    "compare",
    "describe",
    "find_languages",
    "find_openings",
    "find_phrases",
    "find_pii",
    "find_topics",
    "find_uncovered",
    "load_tokenizer",
    "mask_pii",
    "measure_lengths",
    "mmd_test",
    "separability",
    "spread_of",
]
