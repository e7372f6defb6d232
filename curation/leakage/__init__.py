"""Find leaks of protected sets into training rows, each with its kind and the evidence a person needs to confirm it.

The layers, cheapest first: the row is a protected item; it contains one word for word; the two share a long span; one is an edited copy
of the other; the row paraphrases the item. Paraphrase is a matter of degree, so its threshold is calibrated on texts
that are *known not to leak*: the reference texts that may be used for training, or else the other protected items.
The method is described in docs/leak-detection.md.
"""

from curation.leakage.calibration import OperatingPoint
from curation.leakage.detector import LEAKS, SCORES, LeakScreen, find_leaks

__all__ = ["LEAKS", "SCORES", "LeakScreen", "OperatingPoint", "find_leaks"]
