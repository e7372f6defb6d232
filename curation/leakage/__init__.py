"""Leaks of protected sets into training rows, each with its kind and the evidence a person needs to agree.

Layers, cheapest first: the row is the item; the item stands in the row word for word; they share a long span; the row
holds an edited copy; the row says the item in other words. The last is a matter of degree, so it is decided against
what is *known not to leak*: texts that may be trained on when they are given, the other protected items when not.
"""

from curation.leakage.calibration import OperatingPoint
from curation.leakage.detector import LEAKS, SCORES, LeakScreen, find_leaks, score_leaks

__all__ = ["LEAKS", "SCORES", "LeakScreen", "OperatingPoint", "find_leaks", "score_leaks"]
