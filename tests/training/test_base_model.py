"""The demo's base model: room on the disk is checked first and nothing is overwritten."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from training.base_model import check_space
from training.config import TrainingError


def test_no_room_on_the_disk_is_said_before_the_work(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"needs 999000000 MB and \d+ MB are free"):
        check_space(tmp_path / "deep" / "model", needed=999_000_000 * 1_000_000)
    check_space(tmp_path / "deep" / "model", needed=1000)


@pytest.mark.skipif(os.name != "posix", reason="ulimit is POSIX")
def test_file_size_limit_of_the_shell_is_said_and_leaves_nothing(tmp_path: Path) -> None:
    command = f"ulimit -f 100000; {sys.executable} -m training prepare-model {tmp_path / 'model'}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "one file of it has 270 MB and this shell allows 102 MB a file. Next: ulimit -f unlimited" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_folder_with_other_files_is_never_overwritten(tmp_path: Path) -> None:
    from training.base_model import prepare_model

    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(TrainingError, match="nothing was overwritten"):
        prepare_model(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.txt"]
