"""The screen as a stage: its operating point is told, and the last gate looks again at whatever it has not seen as it now stands."""

from __future__ import annotations

import hashlib
import json
import random
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from curation import pipeline
from curation.cli import app
from curation.pipeline.bench import Bench, load_protected, open_bench
from curation.pipeline.facts_for_report import report_data
from curation.pipeline.leaks import leak_findings
from curation.pipeline.screened import keys_of
from curation.records import dump_record, make_instruction
from curation.store import open_store, records
from curation.template import write_template

NOUNS = ["apples", "pears", "plums", "boats", "hens", "stamps", "coins", "bricks", "lamps", "ropes", "kites", "drums", "maps", "tents"]
NAMES = ["Ana", "Ben", "Chloe", "Dan", "Eva", "Finn", "Gina", "Hugo", "Iris", "Jon", "Kira", "Leo", "Mona", "Nils", "Olga", "Pia", "Quin"]


def questions(n: int, *, seed: int) -> list[str]:
    """Word problems that differ in names, things and numbers."""
    rng = random.Random(seed)
    out = []
    for _ in range(n):
        who, thing, other = rng.choice(NAMES), *rng.sample(NOUNS, 2)
        out.append(
            f"{who} has {rng.randint(3, 999)} {thing} and swaps {rng.randint(2, 99)} of them for {other}"
            f" with {rng.choice(NAMES)}. How many {thing} are left on day {rng.randint(2, 60)}?"
        )
    return out


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Forty imported rows beside a suite large enough to calibrate and one that is not; nothing is embedded."""
    folder = tmp_path / "garden"
    write_template(folder, "blank", offline=True, instruction=0, preference=0)
    (folder / "protected").mkdir(exist_ok=True)
    for suite, items in {"large": questions(130, seed=1), "small": ["Name the seven hills of Rome.", "Who wrote Middlemarch?"]}.items():
        (folder / f"protected/{suite}.jsonl").write_text("".join(json.dumps({"text": item}) + "\n" for item in items))
    path = folder / "project.yaml"
    text = re.sub(r"(?m)^(brief|intended_use): .*$", r"\1: answer questions", path.read_text())
    text = re.sub(r"(?m)^  semantic: .*$", "  semantic: null", text)
    suites = "".join(f"    {suite}: {{file: protected/{suite}.jsonl, text: text}}\n" for suite in ("large", "small"))
    path.write_text(re.sub(r"(?m)^  protected: .*\n", f"  protected:\n{suites}", text))
    bring_in(folder, [f"{word(n)} {word(n + 1000)} {word(n + 2000)}?" for n in range(40)])
    return folder


def word(n: int) -> str:
    return hashlib.sha256(str(n).encode()).hexdigest()[:12]


def bring_in(folder: Path, prompts: list[str]) -> None:
    file = folder.parent / "rows.jsonl"
    file.write_text("".join(json.dumps({"prompt": prompt, "completion": f"Answer to {word(len(prompt))}."}) + "\n" for prompt in prompts))
    pipeline.import_rows(folder, file)


def keep(folder: Path) -> None:
    """A person's word for every row, so that all are approved but for what a gate stops."""
    with open_store(folder) as db:
        for row in records.list_rows(db, "instruction"):
            db.execute("INSERT OR IGNORE INTO verdicts VALUES (?, 'approved', NULL, '[]', 1)", (row.seq,))


def gate(bench: Bench) -> tuple[set[str], bool]:
    """(kinds found at the last gate, whether a suite had to be indexed)."""
    rows = records.list_rows(bench.db, "instruction")
    leaks = leak_findings(bench, rows, load_protected(bench))
    return {finding.kind for finding in leaks.findings}, bool(leaks.points)


def test_the_last_gate_passes_what_the_screen_has_seen_and_sees_a_row_that_was_altered(project: Path) -> None:
    pipeline.screen(project)
    with open_bench(project) as bench:
        assert gate(bench) == (set(), False)
        row = records.list_rows(bench.db, "instruction")[7]
        leak = make_instruction("Who wrote Middlemarch?", "George Eliot.")
        bench.db.execute("UPDATE records SET body = ? WHERE seq = ?", (dump_record(leak), row.seq))
        assert gate(bench) == ({"leak_exact"}, True)
        # An answer counts as much as a prompt.
        leak = make_instruction("Say something.", "Name the seven hills of Rome.")
        bench.db.execute("UPDATE records SET body = ? WHERE seq = ?", (dump_record(leak), row.seq))
        assert gate(bench) == ({"leak_exact"}, True)


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("project.yaml", "false_positive_rate: 0.01", "false_positive_rate: 0.02"),
        ("protected/small.jsonl", "Middlemarch", "Emma"),
    ],
)
def test_another_setting_or_item_makes_the_gate_look_again(project: Path, file: str, old: str, new: str) -> None:
    pipeline.screen(project)
    path = project / file
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))
    with open_bench(project) as bench:
        assert gate(bench) == (set(), True)


def test_new_rows_are_screened_and_a_leak_is_found_again_in_every_run(project: Path) -> None:
    bring_in(project, ["Who wrote Middlemarch?"])
    assert pipeline.screen(project).counts["findings"] == {"leak_exact": 1}
    bring_in(project, ["Name the seven hills of Rome, please."])
    told = pipeline.screen(project)
    assert told.counts["findings"] == {"leak_exact": 1, "leak_contained": 1} and told.rows_in == 42
    assert [note for note in told.notes if note.startswith("Operating point: ")]


def test_keys_tell_prompt_answer_and_class_apart(project: Path) -> None:
    with open_bench(project) as bench:
        row = records.list_rows(bench.db, "instruction")[0]
    rows = [row._replace(body=dump_record(make_instruction(*texts))) for texts in (("ab", "c"), ("a", "bc"), ("ab", "c"))]
    keys = keys_of(b"d" * 32, rows, ["x", "x", "y"])
    assert len({tuple(key) for key in keys.tolist()}) == 3
    assert keys_of(b"d" * 32, rows[:1], None).tolist() != keys_of(b"e" * 32, rows[:1], None).tolist()


def test_the_screen_tells_its_operating_point(project: Path) -> None:
    made = CliRunner().invoke(app, ["screen", str(project)])
    line = next(line for line in made.output.splitlines() if line.startswith("Operating point: "))
    assert "1.0% of hard negatives" in line and "`screen.false_positive_rate` moves them" in line
    assert re.search(r"large -?\d+\.\d\d \(\d of 1[23]\d items lie beyond it", line), line
    assert "small 6.00, fixed (2 items are too few to estimate on)" in line
    told = json.loads(CliRunner().invoke(app, ["screen", str(project), "--json"]).output)["operating_point"]
    assert told["key"] == "screen.false_positive_rate" and told["rate"] == 0.01
    assert told["suites"]["large"]["is_estimated"] and told["suites"]["large"]["flagged"] <= 0.01 * told["suites"]["large"]["items"]
    with open_bench(project) as bench:
        shown = {suite.name: suite.operating_point for suite in report_data(bench).suites or ()}
    assert re.match(r"cut at -?\d+\.\d\d \(\d of 1[23]\d items", shown["large"]) and "screen.false_positive_rate" in shown["large"]


def test_a_looser_rate_lowers_the_cut(project: Path) -> None:
    strict = pipeline.screen(project).counts["operating_point"]["suites"]["large"]["cut"]
    path = project / "project.yaml"
    path.write_text(path.read_text().replace("false_positive_rate: 0.01", "false_positive_rate: 0.2"))
    loose = pipeline.screen(project).counts["operating_point"]["suites"]["large"]
    assert loose["cut"] < strict and 0.1 < loose["flagged"] / loose["items"] <= 0.2
