"""The README, executed: every command of its bash blocks, in order, in one scratch folder."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.demo, pytest.mark.argilla, pytest.mark.model]
README = Path(__file__).parents[2] / "README.md"


def commands() -> list[str]:
    blocks = re.findall(r"^```bash\n(.*?)^```", README.read_text(encoding="utf-8"), re.S | re.M)
    return [line for block in blocks for line in block.splitlines() if line.strip()]


def test_the_readme_names_every_verb() -> None:
    """The commands shown use each of the three programs, and no verb that does not exist."""
    shown = commands()
    assert {line.split()[0] for line in shown} == {"curate", "argilla-setup", "train"}
    for line in shown:
        program, verb = line.split()[:2]
        module = {"curate": "curation", "argilla-setup": "argilla_setup", "train": "training"}[program]
        told = subprocess.run([sys.executable, "-m", module, verb, "--help"], capture_output=True, text=True)
        assert told.returncode == 0, line


@pytest.mark.timeout(1500)
def test_the_readme_walks(tmp_path: Path) -> None:
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "SEEDCORN_CONFIG_DIR": str(tmp_path / "config"),
    }
    try:
        for line in commands():
            done = subprocess.run(["bash", "-euc", line], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=600)
            assert done.returncode == 0, f"$ {line}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
    finally:
        for line in ("curate simulate stop coding", "argilla-setup down --home review"):
            subprocess.run(["bash", "-c", line], cwd=tmp_path, env=environment, capture_output=True, timeout=60)
    assert (tmp_path / "coding" / "report.html").is_file()
    assert (tmp_path / "coding" / "runs" / "dpo" / "run.json").is_file()
    assert (tmp_path / "train.jsonl").read_text().count("\n") > 5
