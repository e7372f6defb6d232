"""The plan: even, repeatable, growing without changing what stands, and blind to protected texts."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import pytest

from curation.errors import ProjectError
from curation.plan import coverage, make_plan, normalized
from tests.icd_samples import ROWS, TABLE, project


def plan(protected: tuple[str, ...] = (), **changes: object):
    return make_plan(project(**changes), table=TABLE, protected_texts=protected)


def test_the_same_seed_makes_the_same_plan_and_another_seed_another() -> None:
    first = plan()
    assert first == plan()
    other = project()
    other = other.model_copy(update={"plan": other.plan.model_copy(update={"seed": 8})})
    assert [c.key for c in make_plan(other, table=TABLE, protected_texts=())] != [c.key for c in first]


def test_raising_a_count_only_adds_cells() -> None:
    small, large = plan(instruction=7, preference=2), {c.id: c for c in plan(instruction=41, preference=13)}
    assert len(large) == 54
    assert all(large[cell.id] == cell for cell in small)


@pytest.mark.parametrize("count", [10, 40, 240])
def test_values_follow_their_weights_at_every_length(count: int) -> None:
    cells = [c for c in plan(instruction=count) if c.kind == "instruction"]
    for name, values in project().plan.attributes.items():
        shares = {value: weight / sum(values.values()) for value, weight in values.items()}
        seen = Counter(c.attributes[name] for c in cells)
        assert all(abs(seen[value] - share * count) <= 1.5 for value, share in shares.items()), (name, seen)


def test_no_attribute_predicts_another() -> None:
    cells = plan(instruction=240, preference=0)
    attributes = project().plan.attributes
    for one, other in pairwise(attributes):
        seen = Counter((c.attributes[one], c.attributes[other]) for c in cells)
        for a, wa in attributes[one].items():
            for b, wb in attributes[other].items():
                expected = 240 * wa / sum(attributes[one].values()) * wb / sum(attributes[other].values())
                assert abs(seen[a, b] - expected) <= 3, (a, b, seen[a, b], expected)


def test_each_row_is_written_about_once_before_any_comes_again() -> None:
    scope = {code for code, row in ROWS.items() if row["scope"]}
    cells = plan(instruction=2 * len(scope), preference=0)
    assert {c.key for c in cells[: len(scope)]} == scope
    assert [c.visit for c in cells] == [0] * len(scope) + [1] * len(scope)
    assert {c.key for c in cells[len(scope) :]} == scope


def test_topics_take_turns() -> None:
    cells = plan(instruction=8, preference=0)
    assert len({c.row["chapter"] for c in cells[:4] if c.row}) == 4


def test_the_kinds_share_rows_only_when_they_must() -> None:
    cells = plan(instruction=4, preference=3)
    keys = [c.key for c in cells]
    assert len(set(keys)) == len(keys)


def test_pairs_get_billable_siblings_and_rows_without_any_are_left_out() -> None:
    cells = [c for c in plan(instruction=0, preference=30)]
    assert "R99" not in {c.key for c in cells}
    for cell in cells:
        assert cell.key and cell.siblings
        family = {code for code, row in ROWS.items() if row["parent"] == ROWS[cell.key]["parent"] and row["billable"]} - {cell.key}
        assert {s["code"] for s in cell.siblings} <= family
        assert all("scope" not in s and "parent" not in s for s in cell.siblings)


def test_protected_texts_are_taken_out_of_lists_and_rows_so_called_are_never_shown() -> None:
    protected = ("wenckebach’s  BLOCK", "Swyer James Syndrome", "Deuteranomaly")
    cells = plan(protected, instruction=30, preference=30)
    keys = {c.key for c in cells}
    assert "H53.53" not in keys and {"I44.1", "J43.0"} <= keys
    shown = [row for c in cells for row in (c.row, *c.siblings) if row]
    assert "H53.53" not in {row["code"] for row in shown}
    names = {normalized(name) for row in shown for name in (row["description"], *row["terms"])}
    assert names.isdisjoint({"swyer james syndrome", "deuteranomaly"}) and "wenckebach s block" not in names
    assert any("Second degree block, type I and II" in row["terms"] for row in shown if row["code"] == "I44.1")


def test_a_name_that_holds_a_protected_text_is_not_shown_but_a_longer_word_is_no_hit() -> None:
    cells = plan(("heart block", "Death N"), instruction=30, preference=0)
    terms = [term for c in cells if c.row for term in c.row["terms"]]
    assert "Complete heart block NOS" not in terms and "Death NOS" in terms


def test_a_blank_project_has_cells_without_rows() -> None:
    cells = make_plan(project(grounded=False, instruction=5, preference=2), table=None, protected_texts=())
    assert [(c.key, c.row, c.siblings) for c in cells] == [(None, None, ())] * 7
    assert [c.id for c in cells][-2:] == ["preference:00000", "preference:00001"]


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"where": "nope"}, "plan.grounding.where"),
        ({"show": ["code", "nope"]}, "plan.grounding.show"),
        ({"siblings": "nope"}, "plan.grounding.siblings"),
    ],
)
def test_a_missing_column_is_named_with_those_there_are(change: dict[str, object], what: str) -> None:
    base = project()
    assert base.plan.grounding
    grounding = base.plan.grounding.model_copy(update=change)
    broken = base.model_copy(update={"plan": base.plan.model_copy(update={"grounding": grounding})})
    with pytest.raises(ProjectError) as error:
        make_plan(broken, table=TABLE, protected_texts=())
    assert what in error.value.what and "`nope`" in error.value.fact and "description" in error.value.fact


def test_a_filter_column_must_be_true_or_false() -> None:
    base = project()
    assert base.plan.grounding
    grounding = base.plan.grounding.model_copy(update={"where": "description"})
    broken = base.model_copy(update={"plan": base.plan.model_copy(update={"grounding": grounding})})
    with pytest.raises(ProjectError, match=r"plan\.grounding\.where.*`description`.*string"):
        make_plan(broken, table=TABLE, protected_texts=())


def test_a_missing_table_and_a_weightless_attribute_are_refused() -> None:
    with pytest.raises(ProjectError, match=r"icd10cm\.parquet"):
        make_plan(project(), table=None, protected_texts=())
    base = project()
    flat = base.model_copy(update={"plan": base.plan.model_copy(update={"attributes": {"tone": {"dry": 0.0}}})})
    with pytest.raises(ProjectError, match=r"plan\.attributes\.tone"):
        make_plan(flat, table=TABLE, protected_texts=())


def test_coverage_counts_what_is_reached() -> None:
    cells = plan(instruction=10, preference=0)
    done = {c.id for c in cells if c.attributes["task"] == "phrase"}
    assert coverage(cells, done)["task"] == {"phrase": (6, 6), "short note": (0, 4)}
