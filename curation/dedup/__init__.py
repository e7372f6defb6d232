"""Duplicates, explained: equal texts, near texts, texts that mean the same, and equal texts whose labels disagree.

Each `find_*` gives one line per dropped row and is usable alone on a list of strings. Nothing is merged through chains:
a row is dropped only when a row that *stays* is itself similar enough, so every drop can be shown beside its reason.
Rows whose labels differ are never paired; for label data ("Burn of left hand", "Burn of right hand") they are the data.
"""

from curation.dedup.exact import find_conflicts, find_exact
from curation.dedup.near import find_near, find_near_against
from curation.dedup.near_pairs import find_clusters, find_near_pairs, rethreshold
from curation.dedup.normalization import normalize
from curation.dedup.resolve import DROPS, cluster_alarms
from curation.dedup.semantic import find_semantic

__all__ = [
    "DROPS",
    "cluster_alarms",
    "find_clusters",
    "find_conflicts",
    "find_exact",
    "find_near",
    "find_near_against",
    "find_near_pairs",
    "find_semantic",
    "normalize",
    "rethreshold",
]
