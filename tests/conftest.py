"""What all tests share: a home of their own, so that no test reads or writes the user's, and small projects to work on."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from tests.support import zygote

ROOT = Path(__file__).parents[1]
SHARED = ROOT.parent / "shared" / "data"

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("SEEDCORN_CACHE_DIR", str(ROOT / "build" / "cache"))

pytest_plugins = ["tests.support.argilla_server"]


def pytest_configure() -> None:
    """Share the forking processes among the workers of this session."""
    if zygote.SHARED not in os.environ:  # the workers inherit it
        zygote.share()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The demo and the README's walk take minutes: they go first, so that one of them is not left over for one core at the end."""
    items.sort(key=lambda item: "demo" not in item.keywords)


@pytest.fixture(autouse=True)
def own_config(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Keys and trust store of this test alone; no key of the user's is ever sent anywhere."""
    folder = tmp_path_factory.mktemp("config")
    monkeypatch.setenv("SEEDCORN_CONFIG_DIR", str(folder))
    for name in ("ANTHROPIC_API_KEY", "ANTHROPIC_BASE_URL", "OPENAI_API_KEY", "OPENAI_BASE_URL", "ARGILLA_API_URL", "ARGILLA_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    return folder


@pytest.fixture(scope="session")
def icd10_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project as `curate init --template icd10 --offline` writes it, with small counts; copy it before use."""
    from curation.template import write_template

    folder = tmp_path_factory.mktemp("template") / "coding"
    write_template(folder, "icd10", offline=True, instruction=40, preference=12)
    return folder


@pytest.fixture
def project(icd10_template: Path, tmp_path: Path) -> Path:
    """A fresh small icd10 project."""
    target = tmp_path / "coding"
    shutil.copytree(icd10_template, target)
    return target


def shared(*parts: str) -> Path:
    """A file of the team's test data; the test is skipped with a reason where there is none."""
    path = SHARED.joinpath(*parts)
    if not path.exists():
        pytest.skip(f"the team's test data is not here ({'/'.join(parts)})")
    return path
