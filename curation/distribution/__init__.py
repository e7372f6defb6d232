"""What a set of rows is made of, and how far it is from real use.

`describe` counts lengths, languages, topics, wording and personal data; `compare` holds the rows against a sample of real
use. Each `find_` function is usable alone on texts and gives an Arrow table with the place of all it found.
"""

from curation.distribution.comparison import compare
from curation.distribution.coverage import find_uncovered
from curation.distribution.describe import describe
from curation.distribution.facts import Comparison, Description
from curation.distribution.languages import find_languages
from curation.distribution.lengths import load_tokenizer, measure_lengths, spread_of
from curation.distribution.personal import find_personal, mask_personal
from curation.distribution.phrases import find_openings, find_phrases
from curation.distribution.topics import find_topics
from curation.distribution.twosample import mmd_test, separability

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
