"""Moving up: the same commands and environment variables over Postgres and Redis from Debian instead of SQLite and Valkey."""

from __future__ import annotations

import os
import pwd
import secrets
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from argilla_setup.errors import UserError
from argilla_setup.server.backup import write_backup
from argilla_setup.server.control import any_free_port, describe_server, start_detached, stop_server
from argilla_setup.server.doctor import examine
from argilla_setup.server.home import Home, open_home
from argilla_setup.server.settings import StartOptions
from tests.support.argilla_people import as_person, dataset_of, found, person, push, submit, wait_for
from tests.support.argilla_server import answers_in

pytestmark = pytest.mark.argilla


@dataclass(frozen=True)
class Stores:
    """Two running stores by address, and what to end at last."""

    database: str
    redis: str
    password: str


def find_tool(name: str) -> str:
    """A program of Debian's; missing is a failure in CI and a skip elsewhere."""
    folders = [str(path) for path in sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)]
    path = shutil.which(name, path=os.pathsep.join([os.environ["PATH"], "/usr/sbin", *folders]))
    if path is None:
        message = f"{name} is not here: apt-get install postgresql redis-server"
        pytest.fail(message) if os.environ.get("CI") == "true" else pytest.skip(message)
    return path


def as_another(folder: Path) -> dict[str, object]:
    """Postgres refuses to run as root: hand it to the user that Debian's package made."""
    if os.getuid() != 0:
        return {}
    user = pwd.getpwnam("postgres")
    os.chown(folder, user.pw_uid, user.pw_gid)
    return {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}


@pytest.fixture(scope="module")
def stores() -> Iterator[Stores]:
    initdb, postgres, redis = find_tool("initdb"), find_tool("postgres"), find_tool("redis-server")
    password, ports = secrets.token_hex(12), (any_free_port(), any_free_port())
    running: list[subprocess.Popen[bytes]] = []
    with tempfile.TemporaryDirectory(prefix="seedcorn-stores-") as folder:
        data = Path(folder) / "pg"
        data.mkdir()
        Path(folder).chmod(0o711)
        identity = as_another(data)
        secret = data.parent / "password"
        secret.write_text(password)
        secret.chmod(0o644)
        make = [initdb, "-D", str(data / "db"), "-U", "argilla", "-A", "scram-sha-256", f"--pwfile={secret}", "--no-sync"]
        done = subprocess.run(make, cwd=folder, capture_output=True, text=True, check=False, **identity)  # type: ignore[call-overload]
        assert done.returncode == 0, done.stderr
        secret.unlink()
        settings = [
            "-c",
            "listen_addresses=127.0.0.1",
            "-c",
            f"port={ports[0]}",
            "-c",
            f"unix_socket_directories={data}",
            "-c",
            "fsync=off",
        ]
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "cwd": folder}
        config = Path(folder) / "redis.conf"
        config.write_text(f'bind 127.0.0.1\nport {ports[1]}\nrequirepass {password}\nsave ""\ndir {folder}\n')
        try:
            running.append(subprocess.Popen([postgres, "-D", str(data / "db"), *settings], **quiet, **identity))  # type: ignore[call-overload]
            running.append(subprocess.Popen([redis, str(config)], **quiet))  # type: ignore[call-overload]
            wait_for(lambda: all(listens_on(port) for port in ports), seconds=240)
            create_database(ports[0], password)
            database = f"postgresql://argilla:{password}@127.0.0.1:{ports[0]}/argilla"
            yield Stores(database, f"redis://:{password}@127.0.0.1:{ports[1]}/0", password)
        finally:
            for process in running:
                process.terminate()
            for process in running:
                process.wait(timeout=120)


def listens_on(port: int) -> bool:
    return any(c.laddr.port == port and c.status == psutil.CONN_LISTEN for c in psutil.net_connections(kind="tcp"))


def create_database(port: int, password: str) -> None:
    command = [find_tool("createdb"), "-h", "127.0.0.1", "-p", str(port), "-U", "argilla", "argilla"]
    until = time.monotonic() + 120
    while subprocess.run(command, env=os.environ | {"PGPASSWORD": password}, capture_output=True, check=False).returncode:
        assert time.monotonic() < until, "Postgres does not take connections"
        time.sleep(0.3)


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    made = open_home(tmp_path / "up")
    try:
        yield made
    finally:
        stop_server(made)


def test_a_server_over_postgres_and_redis(stores: Stores, home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pushed, searched, answered and pulled; killed and up again from what was kept; nothing on this machine's own stores."""
    monkeypatch.setenv("ARGILLA_DATABASE_URL", stores.database)
    monkeypatch.setenv("ARGILLA_REDIS_URL", stores.redis)
    status = start_detached(home, port=0, notify=print)
    assert status.healthy and set(status.processes) == {"supervisor", "web", "worker"} and not home.database.exists()
    assert status.stores["database"].startswith("postgresql://argilla:***@") and stores.password not in str(status)
    review = push(home, "moved", ["mia"], count=30, topic="mumps")
    with as_person(status.url, person(home, "mia")["api_key"]) as http:
        dataset = dataset_of(http)
        assert len(found(http, dataset, text="mumps")) == 30
        given = {submit(http, record["id"]) for record in found(http, dataset, limit=5)}
    assert {answer.response for answer in answers_in(review, "cases")} == given

    # The index is short after a crash and is built again from Postgres; the addresses were kept, so the environment may be empty.
    stop_server(home)
    monkeypatch.delenv("ARGILLA_DATABASE_URL")
    monkeypatch.delenv("ARGILLA_REDIS_URL")
    for file in home.folder.glob("search.db*"):
        file.unlink()
    again = start_detached(home, port=None, notify=print)
    assert again.url == status.url and describe_server(home).stores == status.stores
    with as_person(again.url, person(home, "mia")["api_key"]) as http:
        assert len(found(http, dataset, text="mumps")) == 30
    assert not [finding for finding in examine(home) if finding.level == "wrong"]
    with pytest.raises(UserError, match="pg_dump"):
        write_backup(home, home.folder / "b.tar.gz")
    lines = [" ".join(process.info["cmdline"] or []) for process in psutil.process_iter(["cmdline"])]
    logs = [path.read_text(errors="replace") for path in home.logs_folder.glob("*.log")]
    assert not [text for text in (*lines, *logs) if stores.password in text]


def test_a_store_that_does_not_answer_is_named_and_not_kept(home: Home) -> None:
    with pytest.raises(UserError, match=r"--database-url .*cannot be reached"):
        start_detached(home, port=0, notify=print, options=StartOptions(database_url=f"postgresql://argilla@127.0.0.1:{any_free_port()}/x"))
    assert "postgresql" not in home.settings_file.read_text()
