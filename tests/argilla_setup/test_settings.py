"""The choice of stores and addresses: option, then environment, then the saved setting."""

from __future__ import annotations

from pathlib import Path

import pytest

from argilla_setup.errors import UserError
from argilla_setup.server.home import open_home
from argilla_setup.server.settings import ServerSettings, StartOptions, hide_password, load_settings, resolve_settings, save_settings
from tests.support.homes import make_home


def test_stores_by_option_then_environment_then_as_before(tmp_path: Path) -> None:
    home = open_home(tmp_path / "a")
    (tmp_path / "url").write_text("postgresql://u:secret@db/x\n")
    named = resolve_settings(
        home, StartOptions(database_url=f"@{tmp_path / 'url'}", origins=("https://review.example.org",)), environment={}
    )
    assert named == ServerSettings(database_url="postgresql://u:secret@db/x", origins=("https://review.example.org",))
    save_settings(home, named)
    assert load_settings(home) == named and home.settings_file.stat().st_mode & 0o777 == 0o600
    told = {"ARGILLA_REDIS_URL": "redis://q:1/0", "ARGILLA_DATABASE_URL": "postgresql://other"}
    both = resolve_settings(home, StartOptions(), environment=told)
    assert (both.redis_url, both.database_url) == ("redis://q:1/0", "postgresql://other")
    back = resolve_settings(home, StartOptions(database_url="local", redis_url="local"), environment=told)
    assert (back.database_url, back.redis_url) == ("", "")
    assert hide_password("postgresql://u:secret@db:5/x?password=y") == "postgresql://u:***@db:5/x"


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        (StartOptions(database_url="postgresql://u:pw@h/d"), "contains a password.*@FILE"),
        (StartOptions(database_url="mysql://h/d"), "must begin with postgresql://"),
        (StartOptions(elasticsearch_url="h:9200"), "must begin with http://"),
        (StartOptions(redis_url="@/nowhere/at/all"), "cannot be read"),
        (StartOptions(origins=("*",)), "expected a form such as https://"),
        (StartOptions(origins=("https://a/b",)), "expected a form such as https://"),
    ],
)
def test_addresses_that_are_refused(tmp_path: Path, asked: StartOptions, words: str) -> None:
    with pytest.raises(UserError, match=words):
        resolve_settings(open_home(tmp_path / "a"), asked, environment={})


def test_another_database_never_hides_answers(tmp_path: Path) -> None:
    home = make_home(tmp_path / "a", answers=2)
    with pytest.raises(UserError, match=r"holds 2 responses.*would hide"):
        resolve_settings(home, StartOptions(), environment={"ARGILLA_DATABASE_URL": "postgresql://db/x"})
    assert (
        resolve_settings(home, StartOptions(database_url="local"), environment={"ARGILLA_DATABASE_URL": "postgresql://db/x"}).database_url
        == ""
    )
