"""argilla-server 2.8's own ASGI app as it ships, with our search engine registered because it cannot start without one.

Run by the server environment's Python: python benchmarks/argilla_stock.py HOST PORT
"""

import runpy
import sys
from pathlib import Path

engine = runpy.run_path(str(Path(__file__).resolve().parents[1] / "argilla_setup" / "engine" / "__main__.py"), run_name="engine")
engine["_load_package"]()

import argilla_server  # noqa: E402
import uvicorn  # noqa: E402

from argilla_setup.engine import adapter  # noqa: E402

adapter.shared_index()
uvicorn.run(argilla_server.app, host=sys.argv[1], port=int(sys.argv[2]), access_log=False)
