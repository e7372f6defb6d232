"""Rows in and out in the shapes people have: alpaca, ShareGPT, OpenAI messages, prompt/completion, preference pairs.

`read.py` reads a file row by row (`files.py` opens it, `shapes.py` maps a row to a record); `export.py` writes a snapshot's
split for people who train elsewhere. One bad row is a counted `RowFailure`; only a file that cannot be read at all raises.
"""

from curation.formats.export import ExportFormat, check_target, write_rows
from curation.formats.raw import Detected, ReadAs, RowFailure
from curation.formats.read import Format, OpenRows, ReadOptions, ReadRow, open_rows, read_rows
from curation.formats.shapes import PairWithFact, Shape

__all__ = [
    "Detected",
    "ExportFormat",
    "Format",
    "OpenRows",
    "PairWithFact",
    "ReadAs",
    "ReadOptions",
    "ReadRow",
    "RowFailure",
    "Shape",
    "check_target",
    "open_rows",
    "read_rows",
    "write_rows",
]
