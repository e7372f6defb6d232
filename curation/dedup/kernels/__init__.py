"""Compiled loops (numba) over the bytes of Arrow strings.

Only the files of this package import numba at module level, so import them inside functions. Every loop releases the GIL
and works on a range of rows; `arrow_text.spread` distributes the ranges over threads. Loops take the rows as
one `arrow_text.RowBytes`; numba unpacks NamedTuples without copying.

numba caches the machine code of a file next to it and renews it when that file changes, but not when a file it calls into
changes. After editing `read.py`, touch the other files.
"""
