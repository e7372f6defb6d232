"""Check rows against a project's rules: patterns, JSON schemas, tables (rules.py) and the project's own functions.

Functions run in a separate process with a time and memory limit (sandbox.py, sandbox_worker.py).
"""

from curation.validate.rules import FAILURES, check_rows, checks_digest, load_table
from curation.validate.sandbox import CheckProcess, sources_of

__all__ = ["FAILURES", "CheckProcess", "check_rows", "checks_digest", "load_table", "sources_of"]
