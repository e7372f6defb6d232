"""Decide which rows are kept: rows are visited best first, and each is kept or dropped for the most similar row kept before it.

A *place* is an index into the list of rows that are visited, best first. Rows that share a bucket (an LSH band, or a label) are compared.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba import njit

from curation.dedup.kernels.compare import UNLIKE, compare_now, edits_within, new_scratch

_32, _LOW = np.uint64(32), np.uint64(0xFFFFFFFF)
# Signature comparisons that take as long as one exact comparison.
_GLANCES = 16


class Members(NamedTuple):
    """Linked lists of the kept places of each bucket."""

    first: Any
    following: Any
    owner: Any


@njit(nogil=True, cache=True)
def find_heads(buckets, heads):
    """Find the first place of each bucket.

    Args:
        buckets: `near.Buckets`.
        heads: first place of each bucket; -1 on entry; written.
    """
    begins, members = buckets.begins, buckets.members
    for place in range(len(begins) - 1):
        for i in range(begins[place], begins[place + 1]):
            if heads[members[i]] < 0:
                heads[members[i]] = place


@njit(nogil=True, cache=True)
def compare_with_first(start, stop, buckets, heads, places, compared):
    """Compare each place with the first place of each of its buckets, which mostly decides it. Runs on all cores before `keep_best`.

    Args:
        start: first place.
        stop: end of the range.
        buckets: `near.Buckets`.
        heads: first place of each bucket.
        places: `near.Places`.
        compared: `near.Compared`; for each place the heads it was compared with (once each; -1 ends them) and the similarities; written.
    """
    begins, members, others, scores = buckets.begins, buckets.members, compared.others, compared.scores
    most = 1
    for place in range(start, stop):
        for i in range(begins[place], begins[place + 1]):
            head = heads[members[i]]
            most = max(most, places.rows.sizes[places.which[place]], places.rows.sizes[places.which[head]])
    scratch = new_scratch(most)
    for place in range(max(start, places.fixed), stop):
        n_others, begin = 0, begins[place]
        for i in range(begin, begins[place + 1]):
            head = heads[members[i]]
            is_known = head == place
            for j in range(n_others):
                is_known = is_known or others[begin + j] == head
            if not is_known:
                others[begin + n_others] = head
                scores[begin + n_others] = compare_now(place, head, places, scratch)
                n_others += 1


@njit(nogil=True, cache=True)
def root_of(parent, place):
    """Return the root of a place in a union-find forest, halving the path on the way."""
    while parent[place] != place:
        parent[place] = parent[parent[place]]
        place = parent[place]
    return place


@njit(nogil=True, cache=True)
def unite(parent, a, b):
    """Join the clusters of two places under the smaller root.

    Args:
        parent: union-find forest.
        a: a place.
        b: another place.
    """
    a, b = root_of(parent, a), root_of(parent, b)
    parent[max(a, b)] = min(a, b)


@njit(nogil=True, cache=True)
def scratch_for(places, begins):
    """Allocate scratch with room for the longest place that is in a bucket."""
    most = 1
    for place in range(len(places.which)):
        if begins[place + 1] > begins[place]:
            most = max(most, places.rows.sizes[places.which[place]])
    return new_scratch(most)


@njit(nogil=True, cache=True)
def new_members(buckets):
    """Allocate empty member lists for the buckets."""
    n = len(buckets.members)
    return Members(np.full(buckets.n_buckets, -1, np.int64), np.full(n, -1, np.int64), np.empty(n, np.int64))


@njit(nogil=True, cache=True)
def keep_best(buckets, places, limit, compared, short, decided):
    """Decide for every place, in order, whether it is kept or dropped, and for which kept place.

    Args:
        buckets: `near.Buckets` of the LSH bands.
        places: `near.Places`; places below `fixed` are always kept.
        limit: exact comparisons without success after which a place is kept. A comparison that the signatures end costs a
            `_GLANCES`-th.
        compared: results of `compare_with_first`.
        short: `near.Short`: buckets of short rows with the same label, which are also compared by edits.
        decided: `near.Decision` to fill; `kept` is ~place where edits decided.

    Returns:
        The number of places that reached the limit.
    """
    parent, kept, similarity = decided.parent, decided.kept, decided.similarity
    others, scores = compared
    begins, in_buckets = buckets.begins, buckets.members
    first, following, owner = new_members(buckets)
    scratch, mark, gave_up = scratch_for(places, begins), np.full(len(places.which), -1, np.int64), 0
    short_begins, short_members = short.buckets.begins, new_members(short.buckets)
    for place in range(len(places.which)):
        best, best_score, misses = -1, -1.0, 0
        is_free = place >= places.fixed
        begin, end = (begins[place], begins[place + 1]) if is_free else (0, 0)
        # The results that all cores computed in advance come first; only heads that were kept count.
        for i in range(begin, end):
            rival = others[i]
            if rival < 0:
                break
            mark[rival] = place
            if kept[rival] == rival:
                misses += cost_of(scores[i])
                best, best_score = better(place, rival, scores[i], (best, best_score), parent)
        for i in range(begin, end):
            slot = first[in_buckets[i]]
            while slot >= 0 and misses <= limit * _GLANCES:
                rival = owner[slot]
                slot = following[slot]
                if mark[rival] == place:
                    continue
                mark[rival] = place
                score = compare_now(place, rival, places, scratch)
                misses += cost_of(score)
                best, best_score = better(place, rival, score, (best, best_score), parent)
        gave_up += misses > limit * _GLANCES
        by_edits = False
        if best < 0 and is_free and short_begins[place + 1] > short_begins[place]:
            best, best_score = closest_by_edits(place, short, short_members, mark, parent)
            by_edits = best >= 0
        if best >= 0:
            kept[place], similarity[place] = ~best if by_edits else best, best_score
        else:
            for i in range(begins[place], begins[place + 1]):
                owner[i], following[i], first[in_buckets[i]] = place, first[in_buckets[i]], i
            add_kept(place, short.buckets, short_members)
    return gave_up


@njit(nogil=True, cache=True)
def cost_of(score):
    """Return the cost of an unsuccessful comparison, in signature comparisons; 0 for a successful one."""
    return 1 if score == UNLIKE else _GLANCES if score < 0 else 0


@njit(nogil=True, cache=True)
def better(place, rival, score, best, parent):
    """Return the better of two kept places, and join the place with the rival if they are alike.

    Args:
        place: the place to decide.
        rival: a kept place.
        score: their similarity; below 0 they are not alike.
        best: (place, similarity) of the best so far.
        parent: union-find forest of clusters.
    """
    if score < 0:
        return best
    unite(parent, place, rival)
    return (rival, score) if score > best[1] or (score == best[1] and rival < best[0]) else best


@njit(nogil=True, cache=True)
def add_kept(place, buckets, members):
    """Add a kept place to the member lists of its buckets.

    Args:
        place: the kept place.
        buckets: `near.Buckets`.
        members: `Members` of these buckets.
    """
    for i in range(buckets.begins[place], buckets.begins[place + 1]):
        bucket = buckets.members[i]
        members.owner[i], members.following[i], members.first[bucket] = place, members.first[bucket], i


@njit(nogil=True, cache=True)
def closest_by_edits(place, short, members, mark, parent):
    """Return (place, similarity) of the kept short row of the same label with the fewest edits, or (-1, -1).

    The similarity is 1 - edits / length of the longer text.

    Args:
        place: a short row.
        short: `near.Short`.
        members: kept places of its buckets.
        mark: last place each rival was compared with; updated.
        parent: union-find forest; updated.
    """
    # Unpacked outside of the loop: every access to a field of a NamedTuple changes a reference count.
    texts, at, begins, in_buckets = short.codes, short.at, short.buckets.begins, short.buckets.members
    first, following, owner = members
    best, best_score, own = -1, -1.0, texts[at[place] : at[place + 1]]
    # A mark of its own: the same rival may have been compared with this place by shingles.
    seen = len(mark) + place
    for i in range(begins[place], begins[place + 1]):
        slot = first[in_buckets[i]]
        while slot >= 0:
            rival = owner[slot]
            slot = following[slot]
            if mark[rival] == seen:
                continue
            mark[rival] = seen
            text = texts[at[rival] : at[rival + 1]]
            longer = max(len(own), len(text))
            distance = edits_within(own, len(own), text, len(text), np.int64(short.tolerance * longer + 1e-9))
            if distance < 0:
                continue
            unite(parent, place, rival)
            score = 1.0 - distance / longer
            if score > best_score or (score == best_score and rival < best):
                best, best_score = rival, score
    return best, best_score


@njit(nogil=True, cache=True)
def join_buckets(packed, begins, places, limit, parent):
    """Unite every two places of a bucket that are alike; of each cluster in a bucket one chain of members is searched.

    Args:
        packed: sorted (bucket, place), uint64.
        begins: offsets that mark the places in use (`scratch_for`).
        places: `near.Places`.
        limit: members of a cluster that a place is compared with.
        parent: union-find forest; updated.
    """
    scratch = scratch_for(places, begins)
    member, heads, start = np.empty(len(packed), np.int64), np.empty(len(packed), np.int64), 0
    for i in range(1, len(packed) + 1):
        if i < len(packed) and packed[i] >> _32 == packed[start] >> _32:
            continue
        # The clusters of this bucket so far: chains of places through `member`, each begun by its latest place.
        n_heads = 0
        for j in range(start, i):
            place = np.int64(packed[j] & _LOW)
            member[j] = -1
            own = j
            kept_heads = 0
            for h in range(n_heads):
                head = heads[h]
                slot, seen = head, 0
                joined = root_of(parent, np.int64(packed[head] & _LOW)) == root_of(parent, place)
                while not joined and slot >= 0 and seen < limit:
                    joined = compare_now(place, np.int64(packed[slot] & _LOW), places, scratch) >= 0
                    slot, seen = member[slot], seen + 1
                # Clusters that are not joined move to the front of the list.
                if not joined:
                    heads[kept_heads] = head
                    kept_heads += 1
                    continue
                unite(parent, place, np.int64(packed[head] & _LOW))
                # Append the joined cluster to this place's chain, so that it is searched as one from now on.
                tail = own
                while member[tail] >= 0:
                    tail = member[tail]
                member[tail] = head
            heads[kept_heads] = own
            n_heads = kept_heads + 1
        start = i


@njit(nogil=True, cache=True)
def keep_nearest(begins, earlier, cosines, kept, cosine):
    """Visit rows in order; each is dropped for the nearest kept row among its pairs.

    Args:
        begins: offsets into `earlier` for each row.
        earlier: rows before it that are similar enough.
        cosines: their cosines.
        kept: for each row the row it is dropped for, itself if it is kept; updated.
        cosine: the cosine with that row; updated.
    """
    for row in range(len(begins) - 1):
        for i in range(begins[row], begins[row + 1]):
            # It comes before this row, so it is decided.
            rival = earlier[i]
            if kept[rival] == rival and (kept[row] == row or cosines[i] > cosine[row]):
                kept[row], cosine[row] = rival, cosines[i]
