"""Rows in and out in common shapes: alpaca, ShareGPT, OpenAI messages, prompt/completion, preference pairs, KTO, OASST trees.

`read.py` reads a file row by row (`files.py` opens it, `shapes.py` turns a row into a record); `export.py` writes a snapshot's split.
One bad row is a counted `RowFailure`; only a file that cannot be read at all raises. This file imports nothing, so that the command
line can list the formats without loading the readers.
"""
