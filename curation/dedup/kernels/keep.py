"""Who stays: rows are taken best first, and each is kept or falls to the most similar row kept before it."""

from __future__ import annotations

import numpy as np
from numba import njit

from curation.dedup.kernels.compare import edits_within, fill_set, jaccard, may_be_alike, new_tables
from curation.dedup.kernels.read import hash_shingles, read_row

_32 = np.uint64(32)
_UNLIKE = -2.0
_GLANCES = 16
"""Signatures that are compared in the time of one true comparison."""


@njit(nogil=True, cache=True)
def compare_with_first(start, stop, begins, buckets, heads, fixed, which, counts, rows, width, floor, signatures, others, scores):
    """Ahead of `keep_best`, on all cores: each place against the first of each of its buckets, which mostly decides it.

    others, scores: for each place, from begins[place] on, the firsts it was held against (each once; -1 ends them).
    """
    longest, most = 1, 1
    for place in range(start, stop):
        for i in range(begins[place], begins[place + 1]):
            head = heads[buckets[i]]
            longest, most = max(longest, counts[place], counts[head]), max(most, rows[1][which[place]], rows[1][which[head]])
    scratch, state = new_scratch(longest, most, floor)
    for place in range(max(start, fixed), stop):
        n_others, begin = 0, begins[place]
        for i in range(begin, begins[place + 1]):
            head = heads[buckets[i]]
            is_known = head == place
            for j in range(n_others):
                is_known = is_known or others[begin + j] == head
            if not is_known:
                others[begin + n_others] = head
                scores[begin + n_others] = compare_now(place, head, which, counts, rows, width, floor, signatures, scratch, state)
                n_others += 1


@njit(nogil=True, cache=True)
def root_of(parent, place):
    """The place that stands for all that hang together."""
    while parent[place] != place:
        parent[place] = parent[parent[place]]
        place = parent[place]
    return place


@njit(nogil=True, cache=True)
def unite(parent, a, b):
    """Two places hang together from now on."""
    a, b = root_of(parent, a), root_of(parent, b)
    parent[max(a, b)] = min(a, b)


@njit(nogil=True, cache=True)
def compare_now(place, other, which, counts, rows, width, floor, signatures, scratch, state):
    """The similarity of two places; the first one's set stays in the scratch tables until another place is first."""
    if not may_be_alike(signatures, which[place], which[other]):
        return _UNLIKE
    addresses, sizes, is_normal, table, sequences = rows
    codes, hashes, tables = scratch
    if state[0] != place:
        row = which[place]
        n = read_row(addresses[row], sizes[row], is_normal[row], table, sequences, codes)
        state[1], state[2] = fill_set(hashes, hash_shingles(codes, n, width, hashes), floor, tables)
        state[0] = place
    if counts[other] < floor * state[1]:
        return -1.0
    row = which[other]
    n = read_row(addresses[row], sizes[row], is_normal[row], table, sequences, codes)
    count = hash_shingles(codes, n, width, hashes)
    return jaccard(hashes, count, tables, state[1], state[2], floor)


@njit(nogil=True, cache=True)
def make_scratch(which, counts, sizes, floor, is_wanted):
    """Scratch with room for the longest of the wanted places."""
    longest, most = 1, 1
    for place in range(len(which)):
        if is_wanted[place + 1] > is_wanted[place]:
            longest, most = max(longest, counts[place]), max(most, sizes[which[place]])
    return new_scratch(longest, most, floor)


@njit(nogil=True, cache=True)
def new_scratch(longest, most, floor):
    """Buffers for rows of so many shingles and bytes, and the state of `compare_now`."""
    codes, hashes = np.empty(most + most // 2 + 16, np.uint32), np.empty(most + most // 2 + 16, np.uint64)
    return (codes, hashes, new_tables(longest, floor)), np.array([-1, 0, 0])


@njit(nogil=True, cache=True)
def keep_best(
    begins, buckets, n_buckets, fixed, which, counts, rows, width, floor, signatures, looks, others, scores, edits, parent, kept, similarity
):
    """Fill kept (the place that stands for each; itself where it stays; ~ of it where edits decided), similarity and parent.

    Places below `fixed` always stay. A place that has looked at `looks` rivals in vain stays; gives how many did so. A rival
    whose signature is unlike counts as little as it costs.
    """
    scratch, state = make_scratch(which, counts, rows[1], floor, begins)
    first, following, owner = np.full(n_buckets, -1, np.int64), np.full(len(buckets), -1, np.int64), np.empty(len(buckets), np.int64)
    mark, tired = np.full(len(which), -1, np.int64), 0
    edit_begins, edit_buckets, n_edit_buckets = edits[0], edits[1], edits[2]
    edit_first, edit_following = np.full(n_edit_buckets, -1, np.int64), np.full(len(edit_buckets), -1, np.int64)
    edit_owner = np.empty(len(edit_buckets), np.int64)
    for place in range(len(which)):
        best, best_score, misses = -1, -1.0, 0
        begin, end = (begins[place], begins[place + 1]) if place >= fixed else (0, 0)
        for i in range(begin, end):
            rival = others[i]
            if rival < 0:
                break
            mark[rival] = place
            if kept[rival] == rival:
                misses += cost_of(scores[i])
                best, best_score = better(place, rival, scores[i], best, best_score, parent)
        for i in range(begin, end):
            slot = first[buckets[i]]
            while slot >= 0 and misses <= looks * _GLANCES:
                rival = owner[slot]
                slot = following[slot]
                if mark[rival] == place:
                    continue
                mark[rival] = place
                score = compare_now(place, rival, which, counts, rows, width, floor, signatures, scratch, state)
                misses += cost_of(score)
                best, best_score = better(place, rival, score, best, best_score, parent)
        tired += misses > looks * _GLANCES
        by_edits = False
        if best < 0 and place >= fixed and edit_begins[place + 1] > edit_begins[place]:
            best, best_score = closest_by_edits(place, edits, edit_first, edit_following, edit_owner, mark, parent)
            by_edits = best >= 0
        if best >= 0:
            kept[place], similarity[place] = ~best if by_edits else best, best_score
        else:
            add_kept(place, begins, buckets, first, following, owner)
            add_kept(place, edit_begins, edit_buckets, edit_first, edit_following, edit_owner)
    return tired


@njit(nogil=True, cache=True)
def cost_of(score):
    """What a look at a rival cost, if it was in vain."""
    return 1 if score == _UNLIKE else _GLANCES if score < 0 else 0


@njit(nogil=True, cache=True)
def better(place, rival, score, best, best_score, parent):
    """The better of the best rival so far and this one, which hangs together with the place where it is alike."""
    if score < 0:
        return best, best_score
    unite(parent, place, rival)
    return (rival, score) if score > best_score or (score == best_score and rival < best) else (best, best_score)


@njit(nogil=True, cache=True)
def add_kept(place, begins, buckets, first, following, owner):
    """Hang a place that stays into its buckets."""
    for i in range(begins[place], begins[place + 1]):
        owner[i], following[i], first[buckets[i]] = place, first[buckets[i]], i


@njit(nogil=True, cache=True)
def closest_by_edits(place, edits, first, following, owner, mark, parent):
    """The kept short row of one label with the fewest edits (and 1 - edits / length), or -1."""
    begins, buckets, _, texts, at, tolerance = edits
    best, best_score, own = -1, -1.0, texts[at[place] : at[place + 1]]
    seen = len(mark) + place  # a mark of its own: the same rival may have been held against this place by shingles
    for i in range(begins[place], begins[place + 1]):
        slot = first[buckets[i]]
        while slot >= 0:
            rival = owner[slot]
            slot = following[slot]
            if mark[rival] == seen:
                continue
            mark[rival] = seen
            text = texts[at[rival] : at[rival + 1]]
            longer = max(len(own), len(text))
            distance = edits_within(own, len(own), text, len(text), np.int64(tolerance * longer + 1e-9))
            if distance < 0:
                continue
            unite(parent, place, rival)
            score = 1.0 - distance / longer
            if score > best_score or (score == best_score and rival < best):
                best, best_score = rival, score
    return best, best_score


@njit(nogil=True, cache=True)
def join_buckets(packed, begins, which, counts, rows, width, floor, signatures, looks, parent):
    """Unite every two places of a bucket that are alike: sorted (bucket, place), each cluster of a bucket asked in turn."""
    scratch, state = make_scratch(which, counts, rows[1], floor, begins)
    member, heads, start = np.empty(len(packed), np.int64), np.empty(len(packed), np.int64), 0
    for i in range(1, len(packed) + 1):
        if i < len(packed) and packed[i] >> _32 == packed[start] >> _32:
            continue
        n_heads = 0
        for j in range(start, i):
            place = np.int64(packed[j] & np.uint64(0xFFFFFFFF))
            member[j] = -1
            own = j
            kept_heads = 0
            for h in range(n_heads):
                head = heads[h]
                slot, seen = head, 0
                joined = root_of(parent, np.int64(packed[head] & np.uint64(0xFFFFFFFF))) == root_of(parent, place)
                while not joined and slot >= 0 and seen < looks:
                    other = np.int64(packed[slot] & np.uint64(0xFFFFFFFF))
                    joined = compare_now(place, other, which, counts, rows, width, floor, signatures, scratch, state) >= 0
                    slot, seen = member[slot], seen + 1
                if not joined:
                    heads[kept_heads] = head
                    kept_heads += 1
                    continue
                unite(parent, place, np.int64(packed[head] & np.uint64(0xFFFFFFFF)))
                tail = own
                while member[tail] >= 0:
                    tail = member[tail]
                member[tail] = head
            heads[kept_heads] = own
            n_heads = kept_heads + 1
        start = i


@njit(nogil=True, cache=True)
def keep_nearest(begins, earlier, cosines, kept, cosine):
    """Rows in order: each falls to the nearest row before it that stays, of those it is paired with."""
    for row in range(len(begins) - 1):
        for i in range(begins[row], begins[row + 1]):
            rival = earlier[i]
            if kept[rival] == rival and (kept[row] == row or cosines[i] > cosine[row]):
                kept[row], cosine[row] = rival, cosines[i]
