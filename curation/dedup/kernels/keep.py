"""Decide which rows are kept: rows are visited best first, and each is kept or dropped for the most similar row kept before it.

A *place* is an index into the list of rows that are visited, best first. Rows that share a bucket (an LSH band, or a label) are compared.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba import njit

from curation.dedup.kernels.compare import UNLIKE, compare_now, compare_texts, edits_within, load_signature, new_scratch

_32, _LOW = np.uint64(32), np.uint64(0xFFFFFFFF)
# Signature comparisons that take as long as one exact comparison.
_GLANCES = 16
# Places whose signatures are loaded together, ahead of the comparisons.
_AHEAD = 16


class Members(NamedTuple):
    """Linked lists of the kept places of each bucket."""

    first: Any
    following: Any
    owner: Any


@njit(nogil=True, cache=True)
def write_places(buckets, at, places):
    """Write the places of each bucket, best first.

    Args:
        buckets: `near.Buckets`.
        at: beginning of each bucket in `places`; increased.
        places: written.
    """
    begins, members = buckets.begins, buckets.members
    for place in range(len(begins) - 1):
        for i in range(begins[place], begins[place + 1]):
            places[at[members[i]]] = place
            at[members[i]] += 1


@njit(nogil=True, cache=True)
def compare_with_first(start, stop, buckets, members, places, most, compared):
    """Compare each place with the first place of each of its buckets. Runs on all cores before `keep_best`.

    Args:
        start: first place.
        stop: end of the range.
        buckets: `near.Buckets`.
        members: `near.BucketPlaces`.
        places: `near.Places`.
        most: bytes of the longest place that is in a bucket.
        compared: `near.Compared`; for each place the firsts it was compared with (once each; -1 ends them) and the similarities; written.
    """
    begins, in_buckets, others, scores = buckets.begins, buckets.members, compared.others, compared.scores
    firsts, owners, scratch = members.begins, members.places, new_scratch(most)
    for group in range(max(start, places.fixed), stop, _AHEAD):
        last = min(group + _AHEAD, stop)
        for place in range(group, last):
            n_others, begin = 0, begins[place]
            for i in range(begin, begins[place + 1]):
                head = owners[firsts[in_buckets[i]]]
                is_known = head == place
                for j in range(n_others):
                    is_known = is_known or others[begin + j] == head
                if not is_known:
                    others[begin + n_others] = head
                    n_others += 1
                    load_signature(head, places)
            if n_others:
                load_signature(place, places)
        for place in range(group, last):
            for i in range(begins[place], begins[place + 1]):
                if others[i] < 0:
                    break
                scores[i] = compare_now(place, others[i], places, scratch)


@njit(nogil=True, cache=True)
def expect_dropped(begins, compared):
    """Mark the places that are similar to the first place of a bucket which itself is not marked.

    Args:
        begins: beginning of each place's buckets.
        compared: `near.Compared`, results of `compare_with_first`; `expected` is written.
    """
    others, scores, expected = compared.others, compared.scores, compared.expected
    for place in range(len(begins) - 1):
        for i in range(begins[place], begins[place + 1]):
            if others[i] < 0:
                break
            if scores[i] >= 0 and not expected[others[i]]:
                expected[place] = True
                break


@njit(nogil=True, cache=True)
def compare_with_rest(start, stop, buckets, members, places, most, limit, compared):
    """Compare each place with the earlier places of its buckets that are not expected to be dropped. Runs on all cores.

    A place is complete if none of these comparisons was left out, since it may have reached the limit. Of a complete place only the similar
    places stay in `compared`: the order of comparisons, which the limit depends on, does not matter there.

    Args:
        start: first place.
        stop: end of the range.
        buckets: `near.Buckets`.
        members: `near.BucketPlaces`.
        places: `near.Places`.
        most: bytes of the longest place that is in a bucket.
        limit: as for `keep_best`.
        compared: `near.Compared`, results of `compare_with_first`; written.
    """
    begins, others, scores, complete = buckets.begins, compared.others, compared.scores, compared.complete
    scratch, mark, widest = new_scratch(most), np.full(len(begins) - 1, -1, np.int32), 0
    for place in range(start, stop):
        widest = max(widest, begins[place + 1] - begins[place])
    alike, found = np.empty(widest, np.int32), np.empty(widest)
    # With more rivals than these a place cannot be complete, since all but `widest` of them are unlike it.
    most_rivals = limit * _GLANCES + widest
    rivals, ends = np.empty(_AHEAD * (most_rivals + 1), np.int32), np.zeros(_AHEAD + 1, np.int64)
    for group in range(max(start, places.fixed), stop, _AHEAD):
        last = min(group + _AHEAD, stop)
        for place in range(group, last):
            ends[place - group + 1] = list_rivals(
                place, buckets, members, compared, mark, (rivals, ends[place - group], most_rivals), places
            )
        for place in range(group, last):
            begin, end, n, misses = begins[place], begins[place + 1], 0, 0
            first, stop_at = ends[place - group], ends[place - group + 1]
            is_complete = stop_at - first <= most_rivals
            for i in range(begin, end):
                if others[i] < 0:
                    break
                misses += cost_of(scores[i])
                if scores[i] >= 0:
                    alike[n], found[n] = others[i], scores[i]
                    n += 1
            for i in range(first, stop_at if is_complete else first):
                score = compare_now(place, rivals[i], places, scratch)
                misses += cost_of(score)
                if misses > limit * _GLANCES or (score >= 0 and n == end - begin):
                    is_complete = False
                    break
                if score >= 0:
                    alike[n], found[n] = rivals[i], score
                    n += 1
            if not is_complete or misses > limit * _GLANCES:
                continue
            complete[place] = True
            others[begin : begin + n], scores[begin : begin + n] = alike[:n], found[:n]
            if begin + n < end:
                others[begin + n] = -1


@njit(nogil=True, cache=True)
def list_rivals(place, buckets, members, compared, mark, into, places):
    """Write the earlier places of the buckets of a place that are not expected to be dropped and were not compared with it.

    Args:
        place: the place.
        buckets: `near.Buckets`.
        members: `near.BucketPlaces`.
        compared: `near.Compared`.
        mark: last place that each place was listed for; updated.
        into: (array to write to, index of its first free entry, number of rivals after which to end).
        places: `near.Places`; signatures of the rivals are loaded.

    Returns:
        The end of the written entries.
    """
    begins, in_buckets, others, expected = buckets.begins, buckets.members, compared.others, compared.expected
    firsts, owners, (rivals, begin, most) = members.begins, members.places, into
    n = begin
    for i in range(begins[place], begins[place + 1]):
        if others[i] < 0:
            break
        mark[others[i]] = place
    for i in range(begins[place], begins[place + 1]):
        for j in range(firsts[in_buckets[i]] + 1, firsts[in_buckets[i] + 1]):
            rival = owners[j]
            if rival >= place or n - begin > most:
                break
            if not expected[rival] and mark[rival] != place:
                mark[rival] = place
                rivals[n] = rival
                n += 1
                load_signature(rival, places)
    if n > begin:
        load_signature(place, places)
    return n


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
def new_members(buckets):
    """Allocate empty member lists for the buckets."""
    n = len(buckets.members)
    return Members(np.full(buckets.n_buckets, -1, np.int64), np.full(n, -1, np.int64), np.empty(n, np.int64))


@njit(nogil=True, cache=True)
def keep_best(buckets, places, most, limit, compared, short, decided):
    """Decide for every place, in order, whether it is kept or dropped, and for which kept place.

    Args:
        buckets: `near.Buckets` of the LSH bands.
        places: `near.Places`; places below `fixed` are always kept.
        most: bytes of the longest place that is in a bucket.
        limit: exact comparisons without success after which a place is kept. A comparison that the signatures end costs a
            `_GLANCES`-th.
        compared: results of `compare_with_first` and `compare_with_rest`.
        short: `near.Short`: buckets of short rows with the same label, which are also compared by edits.
        decided: `near.Decision` to fill; `kept` is ~place where edits decided.

    Returns:
        The number of places that reached the limit.
    """
    parent, kept, similarity = decided.parent, decided.kept, decided.similarity
    others, scores, expected, complete = compared.others, compared.scores, compared.expected, compared.complete
    begins, in_buckets = buckets.begins, buckets.members
    first, following, owner = new_members(buckets)
    is_searched, n_searched = mark_searched(buckets, complete, places.fixed)
    scratch, mark, gave_up = new_scratch(most), np.full(len(places.which), -1, np.int64), 0
    short_begins, short_members = short.buckets.begins, new_members(short.buckets)
    for place in range(len(places.which)):
        best, best_score, misses = -1, -1.0, 0
        is_free = place >= places.fixed
        begin, end = (begins[place], begins[place + 1]) if is_free else (0, 0)
        # The results that all cores computed in advance come first; only places that were kept count.
        for i in range(begin, end):
            rival = others[i]
            if rival < 0:
                break
            mark[rival] = place
            if kept[rival] == rival:
                misses += cost_of(scores[i])
                best, best_score = better(place, rival, scores[i], (best, best_score), parent)
        for i in range(begin, end if n_searched else begin):
            slot = first[in_buckets[i]]
            while slot >= 0 and misses <= limit * _GLANCES:
                rival = owner[slot]
                slot = following[slot]
                if mark[rival] == place or (complete[place] and not expected[rival]):
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
            continue
        # Only a place that was expected to be dropped is unknown to those that are complete.
        n_searched += expected[place]
        for i in range(begins[place], begins[place + 1] if n_searched else begins[place]):
            if expected[place] or is_searched[in_buckets[i]]:
                owner[i], following[i], first[in_buckets[i]] = place, first[in_buckets[i]], i
        add_kept(place, short.buckets, short_members)
    return gave_up


@njit(nogil=True, cache=True)
def mark_searched(buckets, complete, fixed):
    """Mark the buckets of places that are not complete, whose kept places must be listed.

    Args:
        buckets: `near.Buckets`.
        complete: True for each complete place.
        fixed: places below this are always kept.

    Returns:
        (True for each such bucket, number of such places).
    """
    begins, members = buckets.begins, buckets.members
    is_searched, count = np.zeros(buckets.n_buckets, np.bool_), 0
    for place in range(fixed, len(complete)):
        if not complete[place]:
            count += 1
            for i in range(begins[place], begins[place + 1]):
                is_searched[members[i]] = True
    return is_searched, count


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
def join_pairs(pairs, places, most, parent):
    """Unite the places of every pair that is alike; a pair that is united already is not compared.

    Args:
        pairs: sorted (later place, earlier place), uint64.
        places: `near.Places`.
        most: bytes of the longest place.
        parent: union-find forest; updated.
    """
    scratch = new_scratch(most)
    for pair in pairs:
        later, earlier = np.int64(pair >> _32), np.int64(pair & _LOW)
        if root_of(parent, later) != root_of(parent, earlier) and compare_texts(later, earlier, places, scratch) >= 0:
            unite(parent, later, earlier)


@njit(nogil=True, cache=True)
def join_buckets(packed, whole, places, most, limit, parent):
    """Unite every two places of a large bucket that are alike; of each cluster in a bucket one chain of members is searched.

    Args:
        packed: sorted (bucket, place), uint64.
        whole: places up to which a bucket is not looked at.
        places: `near.Places`.
        most: bytes of the longest place.
        limit: members of a cluster that a place is compared with.
        parent: union-find forest; updated.
    """
    scratch = new_scratch(most)
    member, heads, start = np.empty(len(packed), np.int64), np.empty(len(packed), np.int64), 0
    for i in range(1, len(packed) + 1):
        if i < len(packed) and packed[i] >> _32 == packed[start] >> _32:
            continue
        if i - start <= whole:
            start = i
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
