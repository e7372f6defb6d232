"""Duplicates, explained: equal texts, near texts, texts that mean the same, and equal texts whose labels disagree.

Each `find_*` gives one line per dropped row and is usable alone on a list of strings. Nothing is merged through chains:
a row is dropped only when a row that *stays* is itself similar enough, so every drop can be shown beside its reason.
Rows whose labels differ are never paired; for label data ("Burn of left hand", "Burn of right hand") they are the data.
"""

from curation.dedup.clusters import find_clusters
from curation.dedup.exact import find_conflicts, find_exact
from curation.dedup.keep import DROPS, cluster_alarms
from curation.dedup.near import find_near, find_near_against
from curation.dedup.pairs import find_near_pairs, rethreshold
from curation.dedup.semantic import find_semantic
from curation.dedup.text import normalize

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
