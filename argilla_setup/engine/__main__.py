"""The commands that run inside the server's own environment, started by `argilla-setup` and docker-compose.yml.

    python argilla_setup/engine/__main__.py prepare | serve | worker | reindex | credentials | lock-out

The file loads its package by path instead of through PYTHONPATH, so that nothing of ours shadows a package of the server.
"""

from __future__ import annotations

import asyncio
import importlib.util
import sys
from pathlib import Path


def main(argv: list[str]) -> None:
    """Run one command. Secrets arrive in environment variables, never as arguments."""
    _load_package()
    from argilla_setup.engine import commands

    verb, *rest = argv
    if verb == "prepare":
        commands.prepare()
    elif verb == "serve":
        commands.serve(host=rest[0], port=int(rest[1]))
    elif verb == "worker":
        commands.work()
    elif verb == "reindex":
        asyncio.run(commands.reindex())
    elif verb in ("credentials", "lock-out"):
        asyncio.run(commands.set_credentials(rest[0], lock_out=verb == "lock-out"))
    else:
        sys.exit(f"unknown command {verb}; one of prepare, serve, worker, reindex, credentials, lock-out")


def _load_package() -> None:
    folder = Path(__file__).resolve().parents[1]
    # sys.path[0] is this folder, whose module names could shadow installed packages.
    sys.path[:] = [entry for entry in sys.path if Path(entry).resolve() != folder / "engine"]
    spec = importlib.util.spec_from_file_location("argilla_setup", folder / "__init__.py", submodule_search_locations=[str(folder)])
    assert spec is not None and spec.loader is not None
    package = importlib.util.module_from_spec(spec)
    sys.modules["argilla_setup"] = package
    spec.loader.exec_module(package)


if __name__ == "__main__":
    main(sys.argv[1:])
