"""The combined log of a server's processes."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from argilla_setup.errors import UserError
from argilla_setup.server.logs import Follower, show_logs
from tests.support.homes import make_home


def test_logs_stand_behind_their_process_and_are_followed(tmp_path: Path) -> None:
    home = make_home(tmp_path / "a")
    said: list[str] = []
    with pytest.raises(UserError, match="has no logs yet"):
        show_logs(home, process=None, lines=5, follow=False, notify=said.append)
    (home.logs_folder / "web.log").write_text("one\ntwo\nthree\n")
    (home.logs_folder / "worker.log").write_text("job\n")
    show_logs(home, process=None, lines=2, follow=False, notify=said.append)
    assert said == ["web        | two", "web        | three", "worker     | job"]
    with pytest.raises(UserError, match="there are logs of web, worker"):
        show_logs(home, process="postgres", lines=2, follow=False, notify=said.append)
    said.clear()
    with Follower(home, notify=said.append):
        with (home.logs_folder / "web.log").open("a") as file:
            file.write("four\nhalf a li")
            file.flush()
            time.sleep(0.5)
            file.write("ne\n")
        (home.logs_folder / "worker.log").rename(home.logs_folder / "worker.log.1")
        (home.logs_folder / "worker.log").write_text("new\n")
    assert sorted(said) == ["web        | four", "web        | half a line", "worker     | new"]
