"""What a set of rows is made of, and how far it is from real use.

`describe` counts lengths, languages, topics, wording and personal data; `compare` holds the rows against a sample of real
use. Each `find_` function is usable alone on texts and gives an Arrow table with the place of all it found.
"""

from curation.distribution.drift import compare, find_uncovered, mmd_test, separability
from curation.distribution.pii import find_personal, mask_personal
from curation.distribution.profile import describe, find_languages, find_openings, find_phrases, load_tokenizer, measure_lengths, spread_of
from curation.distribution.schema import Comparison, Description
from curation.distribution.topics import find_topics

__all__ = [
    "Comparison",
    "Description",
    "compare",
    "describe",
    "find_languages",
    "find_openings",
    "find_personal",
    "find_phrases",
    "find_topics",
    "find_uncovered",
    "load_tokenizer",
    "mask_personal",
    "measure_lengths",
    "mmd_test",
    "separability",
    "spread_of",
]
