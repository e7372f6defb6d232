"""The compiled loops against plain definitions: normalization, similarity, who is kept, what moves with the threshold, bad input."""

from __future__ import annotations

import gzip
import os
import random
import time
from itertools import combinations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curation.dedup import (
    cluster_alarms,
    find_clusters,
    find_exact,
    find_near,
    find_near_against,
    find_near_pairs,
    near,
    near_pairs,
    normalize,
    rethreshold,
)
from curation.dedup.arrow_text import keyed_rows, read_rows
from curation.dedup.lsh import RECALL, bands_for, choose_bands, found_at, least_alike
from curation.dedup.near import LONG, LONG_BINS, sketch
from curation.dedup.near_pairs import similar_pairs
from tests.conftest import shared

FULL = bool(os.environ.get("SEEDCORN_SOAK"))
EXACT_BANDS = (96, 1)
"""One bin a band: every pair that shares anything is a candidate."""

WORDS = ("fever", "cough", "rash", "left", "right", "chronic", "knee", "сердце", "心臓病", "ألم", "हृदय", "é́", "ß")
phrases = st.lists(st.sampled_from(WORDS), min_size=1, max_size=7).map(" ".join)


@st.composite
def corpora(draw: st.DrawFn) -> list[str]:
    """Phrases and copies of them with a few letters changed."""
    base = draw(st.lists(phrases, min_size=1, max_size=6))
    rows = []
    for _ in range(draw(st.integers(0, 16))):
        chars = list(draw(st.sampled_from(base)))
        for _ in range(draw(st.integers(0, 3))):
            chars[draw(st.integers(0, len(chars) - 1))] = draw(st.sampled_from("abc 心"))
        rows.append("".join(chars))
    return rows


def codes_of(texts: list[str]) -> list[str]:
    """What the compiled reader makes of each text."""
    from curation.dedup.kernels.read import read_rows_into

    keyed = keyed_rows(texts)
    at = np.cumsum(keyed.lengths) - keyed.lengths
    out = np.zeros(int(keyed.lengths.sum()) + 64, np.uint32)
    read_rows_into(np.arange(len(texts)), at, keyed.rows.raw, out)
    return ["".join(map(chr, out[a : a + n])) for a, n in zip(at.tolist(), keyed.lengths.tolist(), strict=True)]


def shingles(text: str, width: int) -> frozenset[str]:
    return frozenset(text[i : i + width] for i in range(max(1, len(text) - width + 1)))


def by_definition(texts: list[str], threshold: float, width: int) -> dict[int, tuple[int, float]]:
    """row: (kept, similarity), one after the other, every pair looked at; a row equal to an earlier one shares its fate."""
    normal, kept, decided = [normalize(text) for text in texts], list[int](), {}
    sets = [shingles(text, width) for text in normal]
    for row, own in enumerate(sets):
        first = normal.index(normal[row])
        rivals = [(len(own & sets[k]) / len(own | sets[k]), -k) for k in kept if normal[row] and normal[k]]
        best = max((rival for rival in rivals if rival[0] >= threshold), default=None)
        if first != row:
            decided[row] = decided.get(first, (first, 1.0))
        elif best is None:
            kept.append(row)
        else:
            decided[row] = (-best[1], best[0])
    return decided


def test_every_code_point_is_folded_as_python_folds_it() -> None:
    codes = (
        range(0x110000) if FULL else [*range(0x3400), *range(0xF900, 0x10000), *range(0x10400, 0x10500), *range(0x1D100, 0x1D200), 0x2F800]
    )
    texts = [f"x{chr(code)}y" for code in codes] + [chr(code) for code in codes]
    assert codes_of(texts) == [normalize(text) for text in texts]


@settings(max_examples=2000 if FULL else 150, deadline=None)
@given(st.lists(st.text(st.characters(exclude_categories=()), max_size=30), min_size=1, max_size=8))
def test_any_text_is_normalized_as_python_normalizes_it(texts: list[str]) -> None:
    assert codes_of(texts) == [normalize(text) for text in texts]


@settings(max_examples=1000 if FULL else 60, deadline=None)
@given(corpora(), st.sampled_from([0.5, 0.7, 0.8, 0.95]), st.integers(3, 9))
def test_near_is_what_a_look_at_every_pair_gives(texts: list[str], threshold: float, width: int) -> None:
    table = find_near(texts, threshold=threshold, shingle=width, bands=EXACT_BANDS)
    found = {line["row"]: (line["kept"], line["similarity"]) for line in table.to_pylist()}
    expected = by_definition(texts, threshold, width)
    assert found.keys() == expected.keys()
    assert {row: score for row, (_, score) in found.items()} == pytest.approx({row: score for row, (_, score) in expected.items()})
    assert {row: kept for row, (kept, _) in found.items()} == {row: kept for row, (kept, _) in expected.items()}


@settings(max_examples=1000 if FULL else 60, deadline=None, derandomize=True)
@given(corpora(), st.data())
def test_a_moved_threshold_gives_what_a_new_run_would(texts: list[str], data: st.DataObject) -> None:
    labels = data.draw(st.none() | st.lists(st.sampled_from([None, "x", "y"]), min_size=len(texts), max_size=len(texts)))
    rank = data.draw(st.none() | st.permutations(range(len(texts))))
    pairs = find_near_pairs(texts, floor=0.4, labels=labels, rank=rank)
    for threshold in (0.5, 0.7, 0.9):
        again = find_near(texts, threshold=threshold, labels=labels, rank=rank, edits=None)
        assert rethreshold(pairs, threshold).to_pylist() == again.to_pylist()
    with pytest.raises(ValueError, match=r"is below 0\.4"):
        rethreshold(pairs, 0.3)


@settings(max_examples=500 if FULL else 40, deadline=None, derandomize=True)
@given(corpora(), st.data())
def test_rows_that_come_later_change_nothing_for_those_before(texts: list[str], data: st.DataObject) -> None:
    cut = data.draw(st.integers(0, len(texts)))
    before, after = find_near(texts[:cut]), find_near(texts)
    columns = ["row", "kept", "similarity", "measure"]
    assert before.select(columns).to_pylist() == [line for line in after.select(columns).to_pylist() if line["row"] < cut]
    against = find_near_against(texts[cut:], texts[:cut])
    sets = [shingles(normalize(t), 5) for t in texts]
    alike = {b - cut for a in range(cut) for b in range(cut, len(texts)) if len(sets[a] & sets[b]) >= 0.7 * len(sets[a] | sets[b])}
    assert set(against["row"].to_pylist()) == alike


@settings(max_examples=500 if FULL else 40, deadline=None)
@given(corpora())
def test_clusters_are_the_components_of_all_near_pairs(texts: list[str]) -> None:
    clusters = find_clusters(texts, threshold=0.6).tolist()
    names, sets = list(range(len(texts))), [shingles(normalize(t), 5) for t in texts]
    for a, b in combinations(range(len(texts)), 2):
        if len(sets[a] & sets[b]) >= 0.6 * len(sets[a] | sets[b]):
            old, new = max(names[a], names[b]), min(names[a], names[b])
            names = [new if name == old else name for name in names]
    assert clusters == names


@settings(max_examples=80, deadline=None, derandomize=True)
@given(corpora(), st.data())
def test_a_sketch_of_some_rows_answers_as_one_of_their_own(texts: list[str], data: st.DataObject) -> None:
    """Also where the first of equal texts is not among them."""
    texts = ["one more", *texts]
    texts += data.draw(st.lists(st.sampled_from(texts), max_size=5))
    rows = sorted(data.draw(st.sets(st.integers(0, len(texts) - 1), min_size=1)))
    some, own = sketch(texts, threshold=0.5, shingle=4).among(np.array(rows)), [texts[row] for row in rows]
    assert find_clusters(some).tolist() == find_clusters(own, threshold=0.5, shingle=4).tolist()
    assert near.find_drops(some).equals(find_near(own, threshold=0.5, shingle=4))
    found = sorted(zip(*(column.tolist() for column in similar_pairs(some)), strict=True))
    pairs = find_near_pairs(own, floor=0.5, shingle=4)
    assert found == sorted(zip(*(pairs[name].to_pylist() for name in ("row", "twin", "similarity")), strict=True))


def test_clusters_of_crowded_rows_have_every_pair_too(monkeypatch: pytest.MonkeyPatch) -> None:
    rng, texts = random.Random(5), list[str]()
    for _ in range(6):
        chars = rng.choices("abcdefgh ", k=120)
        for _ in range(40):  # a chain: each is near to the one before, and far from the first
            texts.append("".join(chars))
            chars[rng.randrange(120)] = rng.choice("stuvwxyz")
            chars[rng.randrange(120)] = rng.choice("stuvwxyz")
    rng.shuffle(texts)
    clusters = find_clusters(texts)
    for module in (near, near_pairs):
        monkeypatch.setattr(module, "WHOLE", 1)
    monkeypatch.setattr(near, "FIRST", 0)
    close = sketch(texts, threshold=0.7, shingle=5).close
    assert close.crowded and not len(close.packed)
    assert find_clusters(texts).tolist() == clusters.tolist()


@settings(max_examples=2000 if FULL else 150, deadline=None)
@given(st.text("abcd", max_size=20), st.text("abcd", max_size=20), st.integers(0, 20))
def test_edits_are_those_of_rapidfuzz(a: str, b: str, limit: int) -> None:
    from rapidfuzz.distance import Levenshtein

    from curation.dedup.kernels.compare import edits_within

    one, two = (np.array([ord(c) for c in text], np.uint32) for text in (a, b))
    distance = Levenshtein.distance(a, b)
    assert edits_within(one, len(one), two, len(two), limit) == (distance if distance <= limit else -1)


@pytest.mark.parametrize("floor", [0.05, 0.5, 0.7, 1.0])
def test_jaccard_is_that_of_sets_of_shingles_whatever_is_repeated_or_moved(floor: float) -> None:
    from curation.dedup.kernels.compare import fill_table, jaccard, new_scratch
    from curation.dedup.kernels.read import hash_shingles

    def shingles(text: list[int]) -> set[tuple[int, ...]]:
        whole = [*text, *[0] * (3 - len(text))]
        return {tuple(whole[at : at + 3]) for at in range(len(whole) - 2)}

    rng, compared, scratch = np.random.default_rng(5), 0, new_scratch(2_000)
    # Two letters repeat every shingle, twelve some, 300 hardly any; the scratch was used by other rows before.
    for turn in range(1_200):
        letters, size = (1, 2, 12, 300)[turn % 4], int(rng.integers(1, 900 if turn % 3 else 60))
        own = rng.integers(97, 97 + letters, size).tolist()
        cut, end = sorted(rng.integers(0, size + 1, 2).tolist())
        moved = own[cut:end] + own[:cut] + own[end:] + own[cut:end] * (turn % 5 == 0)
        for at in rng.integers(0, len(moved), int(rng.integers(0, 1 + len(moved) // 12))):
            moved[at] = 97 + int(rng.integers(0, 300))
        other = moved if turn % 7 else rng.integers(97, 97 + letters, size).tolist()
        scratch.own[:size], scratch.other[: len(other)] = own, other
        fill_table(hash_shingles(scratch.own, size, 3, scratch.hashes), 3, scratch)
        one, two = shingles(own), shingles(other)
        assert scratch.state[2] == len(one)
        exact = len(one & two) / len(one | two)
        compared += exact >= floor
        for _ in range(2):  # the second finds the table as the first found it
            count = hash_shingles(scratch.other, len(other), 3, scratch.foreign)
            assert jaccard(count, 3, scratch, floor) == (exact if exact >= floor else -1.0)
    assert compared > 100


def test_bins_are_those_of_the_rounds_written_down_plainly() -> None:
    from curation.dedup.kernels.sketch import fill_bins, new_scratch

    all_bits, prime = 2**64 - 1, 0x9E3779B97F4A7C15

    def mix(h: int) -> int:
        for factor in (0xFF51AFD7ED558CCD, 0xC4CEB9FE1A85EC53):
            h = ((h ^ (h >> 33)) * factor) & all_bits
        return h ^ (h >> 33)

    def plain(hashes: list[int], size: int) -> list[int]:
        bins, low = [all_bits] * size, 2**32 - 1
        for h in hashes:
            bins[((h >> 32) * size) >> 32] = min(bins[((h >> 32) * size) >> 32], h & low)
        for turn in (1, 2):
            later = [all_bits] * size
            for h in hashes:
                h = ((h ^ (turn * prime & all_bits)) * prime) & all_bits
                h ^= h >> 32
                later[((h >> 32) * size) >> 32] = min(later[((h >> 32) * size) >> 32], turn << 32 | (h & low))
            bins = [min(pair) for pair in zip(bins, later, strict=True)]
        own = [mix((at + 1) * prime & all_bits) for at in range(size)]
        last = [3 << 32 | min(((f >> 32 | 1) * (h >> 32) + (f & low)) & low for h in hashes) for f in own]
        return [min(pair) for pair in zip(bins, last, strict=True)]

    rng = np.random.default_rng(0)
    for size in (1, 3, 8, 30, 125):
        for count in (1, 2, 5, 40, 300, 3000):
            hashes = rng.integers(0, 2**64, count, dtype=np.uint64)
            hashes = hashes[:2].repeat(1500) if count == 3000 else hashes
            bins = np.empty(size, np.uint64)
            fill_bins(hashes, count, bins, new_scratch(len(bins)))
            assert bins.tolist() == plain(hashes.tolist(), size)


@pytest.mark.parametrize(("threshold", "bands"), [(0.5, (42, 3)), (0.7, (36, 5)), (0.8, (21, 6)), (0.95, (11, 17))])
def test_signatures_pass_what_is_alike_and_stop_what_is_not(threshold: float, bands: tuple[int, int]) -> None:
    from curation.dedup.kernels.compare import may_be_alike
    from curation.dedup.kernels.sketch import fill_bins, new_scratch

    least, size = least_alike(threshold, bands)
    rng, found = np.random.default_rng(1), {threshold: 0, threshold - 0.3: 0}
    for similarity in found:
        for count in (12, 60, 600) * 200:  # shared of all shingles, the rest on either side
            union = rng.integers(0, 2**64, count, dtype=np.uint64)
            shared = int(np.ceil(similarity * count))
            words = np.zeros((2, size), np.uint8)
            for row, mine in enumerate((np.r_[union[:shared], union[shared::2]], np.r_[union[:shared], union[shared + 1 :: 2]])):
                bins = np.empty(bands[0] * bands[1], np.uint64)
                fill_bins(mine, len(mine), bins, new_scratch(len(bins)))
                words[row, : len(bins)] = bins.astype(np.uint8)
            found[similarity] += may_be_alike((words.view(np.uint64), least), 0, 1)
    assert found[threshold] >= 599 and found[threshold - 0.3] <= 30


@pytest.mark.parametrize("threshold", [0.5, 0.7, 0.95])
def test_signatures_of_long_rows_pass_what_is_alike_and_stop_what_is_a_little_less(threshold: float) -> None:
    from curation.dedup.kernels.compare import may_be_alike_long
    from curation.dedup.kernels.sketch import fill_long

    rng, found, least = np.random.default_rng(2), {threshold: 0, threshold - 0.12: 0}, np.empty(LONG_BINS, np.uint32)
    for similarity in found:
        for count in (1500, 3000, 30_000) * 30:  # shared of all shingles, the rest on either side; with 1,500 many bins are empty
            union = rng.integers(0, 2**64, count, dtype=np.uint64)
            shared, pair = int(np.ceil(similarity * count)), np.zeros((2, LONG_BINS), np.uint8)
            for row, mine in enumerate((np.r_[union[:shared], union[shared::2]], np.r_[union[:shared], union[shared + 1 :: 2]])):
                fill_long(np.repeat(mine, 2), 2 * len(mine), pair[row], least)
            found[similarity] += may_be_alike_long(pair[0], pair[1], threshold)
    assert found[threshold] == 90 and found[threshold - 0.12] <= 10


def test_long_rows_have_the_drops_that_comparing_every_candidate_gives() -> None:
    rng, texts = random.Random(4), list[str]()
    for _ in range(20):
        words = [f"{rng.randrange(16**6):06x}" for _ in range(600)]
        for share in (0.0, 0.02, 0.05, 0.06, 0.08, 0.1, 0.15):
            texts.append(" ".join(f"{rng.randrange(16**6):06x}" if rng.random() < share else word for word in words))
    # With given bands every candidate is compared, whatever the signatures say.
    expected = find_near(texts, bands=(64, 3))
    assert min(map(len, texts)) > LONG and 40 < expected.num_rows < 110
    assert find_near(texts).to_pylist() == expected.to_pylist()


def test_arrow_in_any_shape_gives_what_a_list_gives() -> None:
    texts = [
        "a row about coughs and fevers",
        None,
        "",
        "a row about coughs and fever",
        "夜间发热和咳嗽三周的病人",
        "夜间发热和咳嗽三周的病人。",
    ] * 3
    expected = find_near(texts).to_pylist()
    plain = pa.array(texts)
    shapes = [plain, plain.cast(pa.large_string()), plain.cast(pa.string_view()), plain.dictionary_encode()]
    shapes += [pa.chunked_array([plain.slice(0, 5), plain.slice(5)]), pa.concat_arrays([pa.array(["before"]), plain]).slice(1)]
    assert [find_near(shape).to_pylist() for shape in shapes] == [expected] * len(shapes)
    assert find_near(pa.nulls(3)).to_pylist() == find_near(["", "", ""]).to_pylist()
    with pytest.raises(TypeError, match="must be strings"):
        find_near(pa.array([1, 2]))


def test_bad_rows_are_rows() -> None:
    huge = "a long row with the same words again and again " * (220_000 if FULL else 22_000)
    texts = [
        "",
        "x",
        "\x00",
        huge,
        huge + "!",
        "\ud800 alone in a row of some length",
        "\ud800 alone in a row of some lengths",
        "x\x00",
        "\u0301",
        " \t" * 4000 + "y" + "\x7f\n" * 4000,
        "y",
    ]
    table = find_near(texts)
    assert [(line["row"], line["kept"]) for line in table.to_pylist()] == [(2, 0), (4, 3), (6, 5), (7, 1), (10, 9)]


@pytest.mark.parametrize("unit", ["again and again ", "a", "\x00x", "ألم في ", "e\u0301\u0323x ", "\ud800y", "  "])
def test_a_long_row_takes_the_time_of_its_length(unit: str) -> None:
    seconds = []
    for size in (1_000_000, 10_000_000) if FULL else (30_000, 300_000):
        text = unit * (size // len(unit.encode("utf-8", "surrogatepass")))
        started = time.process_time()
        find_near([text, f"{text}!"])
        seconds.append(time.process_time() - started)
    assert seconds[1] < 25 * max(seconds[0], 0.05)


def test_a_million_equal_rows_take_the_time_of_reading_them() -> None:
    seconds = []
    for n in (100_000, 1_000_000) if FULL else (40_000, 200_000):
        texts = pa.array(["the very same row, again and again and again"] * n)
        started = time.process_time()
        assert find_near(texts).num_rows == find_exact(texts).num_rows == n - 1
        seconds.append(time.process_time() - started)
    assert seconds[1] < 20 * max(seconds[0], 0.05)


def test_a_corpus_just_under_the_threshold_is_bounded_and_said(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    opening = " ".join(rng.bytes(4).hex() for _ in range(29))
    texts = [f"{opening} {rng.bytes(35).hex()}" for _ in range(300)]
    monkeypatch.setattr(near, "LIMIT", 20)
    table = find_near(texts, threshold=0.75)
    assert table.num_rows == 0 and int(table.schema.metadata[b"gave_up"]) > 200


def test_a_chain_is_an_alarm() -> None:
    words = [f"word{i:03d}" for i in range(400)]
    steps = [" ".join(words[i * 6 : i * 6 + 40]) for i in range(50)]
    table = find_near(steps[::2] + steps[1::2])  # each of the second half is a twin of two of the first
    assert [(line["reason"], line["size"] > 40) for line in cluster_alarms(table, 10_000).to_pylist()] == [("chained", True)]
    assert cluster_alarms(find_near([steps[0]] * 50), 10_000).num_rows == 0


def test_a_large_class_of_short_rows_is_not_compared_pair_by_pair() -> None:
    rng = np.random.default_rng(0)
    texts = [f"{rng.bytes(4).hex()} of the {rng.bytes(6).hex()}" for _ in range(20_000)]
    started = time.process_time()
    found = find_near([*texts, texts[17].replace(" of ", " off ")], threshold=0.95, labels=["S"] * 20_001).to_pylist()
    assert [(line["row"], line["kept"], line["measure"]) for line in found] == [(20_000, 17, "levenshtein")]
    assert time.process_time() - started < 30  # two hundred million pairs would take minutes


def test_no_two_codes_of_icd_are_merged() -> None:
    with gzip.open(shared("icd", "icd10cm_2025_codes.tsv.gz"), "rt") as body:
        rows = [line.rstrip("\n").split("\t") for line in body][1:]
    rows = rows if FULL else rows[::3]
    codes, texts = [row[0] for row in rows], [row[-1] for row in rows]
    assert len(set(codes)) == len(codes) > 30_000
    assert find_near(texts, labels=codes).num_rows == find_exact(texts, labels=codes).num_rows == 0
    assert find_near(texts).num_rows > len(texts) / 4  # without labels most would fall as copies of a neighbour


def test_bands_follow_the_density_of_the_rows() -> None:
    rng = np.random.default_rng(0)
    unlike = pa.array([rng.bytes(40).hex() for _ in range(12_000)])
    common = pa.array([f"{'the same opening of every prompt in this set, ' * 3}{rng.bytes(70).hex()}" for _ in range(12_000)])
    chosen = [choose_bands(read_rows(rows), threshold=0.7, shingle=5, codes=np.full(12_000, -1)) for rows in (unlike, common)]
    assert chosen[0][1] < chosen[1][1]


@pytest.mark.parametrize("threshold", [0.5, 0.7, 0.8, 0.95])
def test_bands_are_those_of_datasketchs_optimizer(threshold: float) -> None:
    from datasketch.lsh import _optimal_param

    proposed = {_optimal_param(threshold, size, 0.002, 0.998) for size in (64, 80, 128, 160, 192, 288)}
    wanted = [pair for pair in proposed if found_at(threshold, *pair) >= RECALL and pair[0] * pair[1] <= 192]
    assert bands_for(threshold) == max(wanted, key=lambda pair: (pair[1], pair[0]))


@pytest.mark.parametrize("threshold", [0.5, 0.7, 0.8, 0.95])
def test_bands_miss_less_than_datasketchs_own(threshold: float) -> None:
    from datasketch.lsh import _false_negative_probability, _optimal_param

    own, default = bands_for(threshold), _optimal_param(threshold, 128, 0.5, 0.5)
    assert _false_negative_probability(threshold, *own) < _false_negative_probability(threshold, *default) / 5
