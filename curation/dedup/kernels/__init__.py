"""Compiled loops over the bytes of Arrow strings. Only these files import numba at their top, so import them inside functions.

Every loop lets go of the interpreter (nogil) and works on a range of rows; `spread` gives the ranges to threads. numba
keeps the machine code beside the source and renews it when that file changes, not when a file it calls into changes:
after editing `read.py`, touch the others.
"""
