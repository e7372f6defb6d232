"""Splits: rows that say the same never stand on two sides, and a side once taken is kept."""

from __future__ import annotations

from collections import Counter, defaultdict
from hashlib import sha256
from itertools import combinations

from hypothesis import given, settings
from hypothesis import strategies as st

from curation.dedup.sketch import jaccard, shingle_hashes
from curation.dedup.text import normalize
from curation.split import pick_split, split_rows

SHARES = {"train": 0.6, "validation": 0.2, "test": 0.2}
LONG = "A {} year old patient comes in with shortness of breath on exertion, swollen ankles and a dry cough since {}."


def ids_of(count: int, salt: str = "") -> list[str]:
    return [sha256(f"{salt}{n}".encode()).hexdigest() for n in range(count)]


def topic(n: int) -> str:
    """Texts that share nothing."""
    return sha256(str(n).encode()).hexdigest()


def test_twins_share_a_side() -> None:
    prompts = [LONG.format(40 + n, "May") for n in range(30)] + [topic(n) for n in range(200)]
    assigned = split_rows(prompts, ids_of(len(prompts)), shares=SHARES)
    assert len({split for split, _ in assigned[:30]}) == 1
    assert len({cluster for _, cluster in assigned[:30]}) == 1
    assert len({split for split, _ in assigned[30:]}) == 3


def test_rows_of_one_group_share_a_side() -> None:
    groups = [None if n % 3 else f"conversation {n // 30}" for n in range(300)]
    assigned = split_rows([topic(n) for n in range(300)], ids_of(300), shares=SHARES, groups=groups)
    sides = defaultdict(set)
    for group, (split, _) in zip(groups, assigned, strict=True):
        sides[group].add(split)
    assert [group for group, found in sides.items() if group and len(found) > 1] == []
    assert len(sides[None]) == 3


def test_a_group_and_a_twin_hang_together_through_each_other() -> None:
    prompts = [LONG.format(41, "May"), topic(1), LONG.format(42, "May"), topic(2)]
    for salt in map(str, range(12)):
        assigned = split_rows(prompts, ids_of(4, salt), shares=SHARES, groups=["g", "g", None, None])
        assert assigned[0] == assigned[1] == assigned[2]
        assert assigned[3][1] != assigned[0][1]


def test_a_row_that_is_near_to_two_unlike_rows_brings_all_three_to_one_side() -> None:
    """The bridge is dropped as a twin of one; the other must not be forgotten."""
    left, right = "alpha beta gamma delta epsilon zeta eta theta iota kappa", "iota kappa lambda sigma omega rho phi chi psi tau"
    bridge = f"{left} {right}"
    prompts = [left, right, bridge]
    values = [shingle_hashes(normalize(p), 5) for p in prompts]
    threshold = 0.4
    assert jaccard(values[0], values[1]) < threshold <= min(jaccard(values[0], values[2]), jaccard(values[1], values[2]))
    for salt in map(str, range(20)):
        assigned = split_rows(prompts, ids_of(3, salt), shares=SHARES, threshold=threshold)
        assert len({split for split, _ in assigned}) == 1, assigned


def test_frozen_rows_never_move_and_hold_their_twins() -> None:
    prompts = [LONG.format(40 + n, "May") for n in range(20)] + [topic(n) for n in range(30)]
    for side in SHARES:
        frozen = [side] + [None] * 49
        assigned = split_rows(prompts, ids_of(50), shares=SHARES, frozen=frozen)
        assert {split for split, _ in assigned[:20]} == {side}
        elsewhere = {"train": 0.0, "validation": 0.0, "test": 1.0}
        again = split_rows(prompts, ids_of(50), shares=elsewhere, frozen=[split for split, _ in assigned])
        assert again == assigned


def test_a_newcomer_near_to_both_sides_is_left_out_and_the_others_stay() -> None:
    prompts = [LONG.format(41, "May"), LONG.format(42, "May"), LONG.format(43, "May"), topic(1)]
    assigned = split_rows(prompts, ids_of(4), shares=SHARES, frozen=["train", "test", None, None])
    assert [split for split, _ in assigned[:3]] == ["train", "test", None]
    assert assigned[3][0] is not None


def test_rows_that_come_later_change_nothing_for_those_before() -> None:
    prompts = [topic(n) for n in range(100)]
    before = split_rows(prompts[:60], ids_of(60), shares=SHARES)
    after = split_rows(prompts, ids_of(100), shares=SHARES)
    assert after[:60] == before


def test_the_shares_are_reached_within_chance() -> None:
    counts = Counter(pick_split(i, SHARES) for i in ids_of(20_000))
    assert {split: round(n / 20_000, 2) for split, n in counts.items()} == SHARES


def test_a_share_of_nothing_gets_nothing() -> None:
    shares = {"train": 0.9, "validation": 0.1, "test": 0.0}
    assert {pick_split(i, shares) for i in ids_of(5000)} == {"train", "validation"}
    assert {pick_split(i, {"train": 0.0, "validation": 0.0, "test": 1.0}) for i in ids_of(100)} == {"test"}


def test_no_rows_and_empty_prompts() -> None:
    assert split_rows([], [], shares=SHARES) == []
    assigned = split_rows(["", "", "x"], ids_of(3), shares=SHARES)
    assert all(split in SHARES for split, _ in assigned)


WORDS = ("fever", "cough", "rash", "pain", "left", "right", "chronic", "acute", "knee", "heart", "lung")
words = st.lists(st.sampled_from(WORDS), min_size=1, max_size=8)


@settings(max_examples=60, deadline=None, derandomize=True)  # LSH finds 999 of 1,000 pairs at the very threshold
@given(
    st.lists(words.map(" ".join), min_size=1, max_size=20),
    st.data(),
    st.sampled_from([0.5, 0.7, 0.9]),
)
def test_near_prompts_and_groups_never_straddle(prompts: list[str], data: st.DataObject, threshold: float) -> None:
    count = len(prompts)
    groups = data.draw(st.lists(st.sampled_from([None, "a", "b"]), min_size=count, max_size=count))
    assigned = split_rows(prompts, ids_of(count), shares=SHARES, groups=groups, threshold=threshold)
    values = [shingle_hashes(normalize(p), 5) for p in prompts]
    for a, b in combinations(range(count), 2):
        together = groups[a] is not None and groups[a] == groups[b]
        if together or normalize(prompts[a]) == normalize(prompts[b]) or jaccard(values[a], values[b]) >= threshold:
            assert assigned[a] == assigned[b], (prompts[a], prompts[b])


@settings(max_examples=60, deadline=None, derandomize=True)  # LSH finds 999 of 1,000 pairs at the very threshold
@given(st.lists(words.map(" ".join), min_size=2, max_size=16, unique=True), st.data())
def test_growing_a_project_never_moves_a_row_nor_splits_twins(prompts: list[str], data: st.DataObject) -> None:
    cut = data.draw(st.integers(1, len(prompts) - 1))
    first = split_rows(prompts[:cut], ids_of(cut), shares=SHARES)
    frozen = [split for split, _ in first] + [None] * (len(prompts) - cut)
    grown = split_rows(prompts, ids_of(len(prompts)), shares=SHARES, frozen=frozen)
    assert [split for split, _ in grown[:cut]] == [split for split, _ in first]
    values = [shingle_hashes(normalize(p), 5) for p in prompts]
    for new in range(cut, len(prompts)):
        near = {grown[old][0] for old in range(len(prompts)) if jaccard(values[new], values[old]) >= 0.7}
        assert len(near - {None}) <= 1 or grown[new][0] is None
