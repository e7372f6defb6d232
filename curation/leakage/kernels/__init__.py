"""Compiled loops (numba) of the leak screen. Only these files import numba at module level, so import them inside functions."""
