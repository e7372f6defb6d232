"""Where keys go: to the provider, or to a server that was given a key of its own, and never in clear text."""

from __future__ import annotations

import http.server
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from curation import api as stages
from curation.config.models import ModelSpec
from curation.errors import ModelUnavailable, UserError
from curation.models import has_key, open_model
from curation.models.base import is_loopback
from tests.support.projects import write_blank

REAL = {"ANTHROPIC_API_KEY": "sk-ant-real", "OPENAI_API_KEY": "sk-real", "AWS_SECRET_ACCESS_KEY": "aws", "GATEWAY_KEY": "gateway"}
PRICE = {"input": 0, "output": 0}


def opened(provider: str, base_url: str | None = None, key_env: str | None = None, **environ: str) -> Any:
    spec = ModelSpec.model_validate({"provider": provider, "model": "m", "base_url": base_url, "key_env": key_env, "price": PRICE})
    model: Any = open_model(spec, environ=REAL | environ)
    assert has_key(spec, REAL)
    return model.address, model._key


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (("anthropic",), ("https://api.anthropic.com", "sk-ant-real")),
        (("anthropic", "https://api.anthropic.com/"), ("https://api.anthropic.com/", "sk-ant-real")),
        (("anthropic", "http://127.0.0.1:8000"), ("http://127.0.0.1:8000", "none")),
        (("anthropic", "http://[::1]:8000"), ("http://[::1]:8000", "none")),
        (("anthropic", "https://gateway.example.org", "GATEWAY_KEY"), ("https://gateway.example.org", "gateway")),
        (("anthropic", "http://localhost:1", "GATEWAY_KEY"), ("http://localhost:1", "gateway")),
        (("openai",), ("https://api.openai.com/v1", "sk-real")),
        (("openai", "http://gpu-box:8000/v1"), ("http://gpu-box:8000/v1", "none")),
        (("openai", "https://gateway.example.org/v1", "GATEWAY_KEY"), ("https://gateway.example.org/v1", "gateway")),
    ],
)
def test_a_key_goes_to_the_server_it_is_for(given: tuple[str, ...], expected: tuple[str, str]) -> None:
    assert opened(*given) == expected


def test_an_address_in_the_environment_is_the_user_s_own_choice() -> None:
    assert opened("anthropic", ANTHROPIC_BASE_URL="https://gateway.example.org") == ("https://gateway.example.org", "sk-ant-real")
    assert opened("openai", OPENAI_BASE_URL="https://gateway.example.org/v1") == ("https://gateway.example.org/v1", "sk-real")
    with pytest.raises(ModelUnavailable, match="in clear text"):
        opened("anthropic", ANTHROPIC_BASE_URL="http://gateway.example.org")


@pytest.mark.parametrize(
    "address",
    [
        "https://evil.example", "https://api.anthropic.com.evil.example", "https://api.anthropic.com@evil.example", "http://api.anthropic.com",
        "https://api.anthropic.com:444", "https://evil.example/https://api.anthropic.com", "http://127.evil.example",
    ],
)  # fmt: skip
@pytest.mark.parametrize("key_env", [None, "ANTHROPIC_API_KEY", "anthropic_api_key", "OPENAI_API_KEY", "AWS_SECRET_ACCESS_KEY", "HF_TOKEN"])
def test_a_project_cannot_have_the_user_s_keys_sent_to_its_server(address: str, key_env: str | None) -> None:
    with pytest.raises(ModelUnavailable, match=r"is not sent to .*which project\.yaml names as base_url.*Next: .*key_env"):
        opened("anthropic", address, key_env)
    if key_env is not None:
        with pytest.raises(ModelUnavailable, match=r"is not sent to"):
            opened("openai", address, key_env)


@pytest.mark.parametrize("provider", ["anthropic", "openai"])
@pytest.mark.parametrize(
    "address", ["http://gateway.example.org/v1", "http://10.0.0.7:8000", "http://127.evil.example", "HTTP://gateway/v1"]
)
def test_no_key_travels_in_clear_text(provider: str, address: str) -> None:
    with pytest.raises(ModelUnavailable, match=r"the key in GATEWAY_KEY would go there in clear text.*Next: use https, or a tunnel"):
        opened(provider, address, "GATEWAY_KEY")


@pytest.mark.parametrize(
    "address", ["ftp://h", "https://", "h:8000", "https://h\\@x", "https://h:99999", "https://h /v1", "file:///etc/passwd"]
)
def test_an_address_that_is_none_is_refused(address: str) -> None:
    with pytest.raises(ModelUnavailable, match="base_url: is not a URL"):
        opened("openai", address)


def test_loopback_is_an_address_and_no_name() -> None:
    addresses = (
        "http://127.0.0.1",
        "http://127.1.2.3:80",
        "http://localhost:1",
        "http://[::1]/",
        "http://127.evil.example",
        "http://1.2.3.4",
        "x",
    )
    assert [is_loopback(address) for address in addresses] == [True] * 4 + [False] * 3


# On the wire


@contextmanager
def catcher(reply: int, **headers: str) -> Iterator[tuple[str, list[dict[str, str]]]]:
    """A server that notes the headers of every request and answers with one status."""
    seen: list[dict[str, str]] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            seen.append({name.lower(): value for name, value in self.headers.items()})
            self.send_response(reply)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("content-length", "2")
            self.end_headers()
            self.wfile.write(b"{}")

        do_GET = do_POST

        def log_message(self, *args: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", seen
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def project(folder: Path, base_url: str, more: str = "") -> Path:
    write_blank(folder, instruction=2)
    text = (folder / "project.yaml").read_text()
    text = re.sub(r"(?m)^(brief|intended_use): .*$", r"\1: garden advice", text)
    text = re.sub(r"\{provider: anthropic, ", f"{{provider: anthropic, base_url: '{base_url}'{more}, ", text)
    (folder / "project.yaml").write_text(text)
    return folder


def test_a_dry_run_of_a_foreign_project_gives_no_key_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-ant-real")
    monkeypatch.setenv("ANTHROPIC_AUTH_TOKEN", "sk-ant-real")
    monkeypatch.setenv("ANTHROPIC_CUSTOM_HEADERS", "x-team: sk-ant-real\nauthorization: Bearer sk-ant-real")
    with catcher(404) as (address, seen):
        folder = project(tmp_path / "garden", address)
        for work in (stages.plan, stages.estimate, stages.generate):
            with suppress(UserError):
                work(folder)
    assert seen and "sk-ant-real" not in json.dumps(seen)


def test_a_redirect_takes_no_key_along(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GATEWAY_KEY", "gateway-key")
    with catcher(200) as (evil, stolen), catcher(307, location=f"{evil}/v1/messages") as (address, seen):
        folder = project(tmp_path / "garden", address, ", key_env: GATEWAY_KEY")
        for work in (stages.plan, stages.generate):
            with suppress(UserError):
                work(folder)
    assert seen and seen[0]["authorization"] == "Bearer gateway-key"
    assert stolen == []


# Passwords in addresses


def test_a_password_in_an_address_leaves_in_nothing_that_is_shipped_or_printed(tmp_path: Path) -> None:
    from tests.support.projects import Bed, approve, blank, import_plain, score_by_hand

    bed = Bed(blank(tmp_path / "garden"), tmp_path)
    file = bed.folder / "project.yaml"
    text = re.sub(r"(?m)^  index: .*$", "  index: redis://team:PASSWORD@cache:6379/0", file.read_text())
    text = re.sub(r"(?m)^(brief|intended_use): .*$", r"\1: advice from https://team:PASSWORD@wiki.example/page", text)
    assert text.count("PASSWORD") == 3
    file.write_text(text)
    import_plain(bed.folder, 40)
    score_by_hand(bed.folder)
    approve(bed.folder)
    made = stages.snapshot(bed.folder, "instruction")
    stages.sign(Path(made.counts["path"]))
    shipped = [path for path in Path(made.counts["path"]).iterdir() if path.suffix != ".parquet"]
    assert {path.name for path in shipped} >= {"manifest.json", "README.md", "report.html", "croissant.json"}
    for path in shipped:
        assert b"PASSWORD" not in path.read_bytes(), path.name
    assert '"index": "redis://***@cache:6379/0"' in (Path(made.counts["path"]) / "manifest.json").read_text()
    report = stages.report(bed.folder)
    assert "PASSWORD" not in Path(report.counts.get("file") or bed.folder / "report.html").read_text()
