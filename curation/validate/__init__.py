"""What every row must satisfy: patterns, JSON schemas, tables (rules.py), and a project's own functions (callables.py), which run in a
process of their own with a limit on time and memory (child.py).
"""

from curation.validate.rules import FAILURES, check_rows, checks_digest, load_table
from curation.validate.sandbox import CheckProcess, sources_of

__all__ = ["FAILURES", "CheckProcess", "check_rows", "checks_digest", "load_table", "sources_of"]
