"""The service: healthy only while answers really come in, and it says in a sentence why not."""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from curation.template import write_template
from tests.conftest import ROOT
from tests.integration.argilla_server import RunningArgilla

BRIEF = "Answer gardening questions for beginners in two sentences."


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    target = tmp_path / "garden"
    write_template(target, "blank", offline=True, instruction=0, preference=0)
    path = target / "project.yaml"
    path.write_text(re.sub(r"(?m)^(brief|intended_use): .*$", rf"\1: {BRIEF}", path.read_text()))
    return target


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def get(url: str) -> tuple[int, dict[str, Any]]:
    try:
        with urllib.request.urlopen(url, timeout=20) as reply:
            return reply.status, json.loads(reply.read())
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())


@contextmanager
def serving(folder: Path) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """`curate serve` as a process of its own; ended whatever happens."""
    port = free_port()
    command = [sys.executable, "-m", "curation", "serve", str(folder), "--port", str(port), "--every", "1"]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        yield f"http://127.0.0.1:{port}", process
    finally:
        process.kill()
        process.communicate()


def wait_until(url: str, wanted: Any, process: subprocess.Popen[str], seconds: float = 60) -> tuple[int, dict[str, Any]]:
    """Ask for health until it is as wanted; the last answer either way."""
    end, seen = time.monotonic() + seconds, (0, {})
    while time.monotonic() < end:
        assert process.poll() is None, process.communicate()
        try:
            seen = get(f"{url}/healthz")
        except urllib.error.URLError:
            seen = (0, {})
        if seen[0] and wanted(*seen):
            return seen
        time.sleep(0.1)
    raise AssertionError(seen)


def test_without_argilla_it_is_up_unhealthy_and_says_why(folder: Path) -> None:
    with serving(folder) as (url, process):
        status, body = wait_until(url, lambda _, b: "has not looked" not in b["error"], process)
        assert status == 503
        assert body["healthy"] is False and body["seconds_since_pull"] is None
        assert "ARGILLA_API_URL" in body["error"] and "argilla-setup up" in body["error"]
        status, body = get(f"{url}/status")
        assert (status, body["stage"], body["project"]) == (200, "status", "garden")
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=30)
        assert "Traceback" not in errors


class Nonsense(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        raw = b'{"items": 7}'
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)

    do_POST = do_GET

    def log_message(self, *args: Any) -> None:
        pass


def test_an_argilla_that_answers_nonsense_does_not_end_the_polling(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Nonsense)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    monkeypatch.setenv("ARGILLA_API_URL", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("ARGILLA_API_KEY", "owner.key")
    try:
        with serving(folder) as (url, process):
            first = wait_until(url, lambda _, b: "has not looked" not in b["error"], process)
            assert first[0] == 503 and first[1]["error"]
            server.shutdown()
            server.server_close()
            # The next look finds nobody there: it did look again.
            assert wait_until(url, lambda _, b: b["error"] != first[1]["error"], process)[0] == 503
    finally:
        server.server_close()


@pytest.mark.argilla
def test_with_argilla_it_becomes_healthy(folder: Path, argilla_home: RunningArgilla) -> None:
    path = folder / "project.yaml"
    path.write_text(re.sub(r"(?m)^  argilla: \S+", f"  argilla: {argilla_home.home.folder}", path.read_text()))
    with serving(folder) as (url, process):
        status, body = wait_until(url, lambda s, _: s == 200, process)
        assert (status, body["healthy"], body["answers"], body["error"]) == (200, True, 0, None)
        assert 0 <= body["seconds_since_pull"] < 30
