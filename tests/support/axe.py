"""axe-core, which finds what makes a page hard to use with a screen reader or with weak sight. MPL-2.0; fetched by npm for tests only."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import pytest

VERSION = "4.14.1"
SHA256 = "29348999450cdf2849a8e70b7912fc2da85a849da39c0d0d5394f51d4a9ed95c"
"""Of the package's axe.min.js."""


def axe_source() -> str:
    """Return the script, fetched once into the cache. Without npm or a network the test is skipped, and fails where CI=true."""
    cache = Path(os.environ.get("SEEDCORN_CACHE_DIR", Path(__file__).parents[2] / "build" / "cache")) / "axe"
    file = cache / f"axe-{VERSION}.min.js"
    if not file.is_file():
        cache.mkdir(parents=True, exist_ok=True)
        npm = shutil.which("npm")
        command = [str(npm), "pack", f"axe-core@{VERSION}", "--silent", "--pack-destination", str(cache)]
        if npm is None or subprocess.run(command, capture_output=True, timeout=120).returncode:
            message = "axe-core is not in the cache and npm cannot fetch it"
            pytest.fail(message) if os.environ.get("CI") == "true" else pytest.skip(message)
        with tarfile.open(cache / f"axe-core-{VERSION}.tgz") as packed:
            script = packed.extractfile("package/axe.min.js")
            assert script is not None
            partial = file.with_suffix(f".{os.getpid()}")
            partial.write_bytes(script.read())
            partial.replace(file)
    body = file.read_bytes()
    assert hashlib.sha256(body).hexdigest() == SHA256, f"{file} is not the axe-core that was reviewed; delete it"
    return body.decode()


def violations(page: Any, source: str) -> list[str]:
    """Return the serious and critical violations on a page, each with the first elements."""
    page.evaluate(source)  # by the debugger's protocol: the page's own policy allows no foreign script
    found = page.evaluate("axe.run(document, { resultTypes: ['violations'] })")["violations"]
    return [
        f"{one['impact']} {one['id']}: {node['html'][:160]}: {node['failureSummary'][:200]}"
        for one in found
        if one["impact"] in ("serious", "critical")
        for node in one["nodes"][:3]
    ]
