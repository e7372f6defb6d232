"""Compiled loops of the leak screen. Only these files import numba at their top, so import them inside functions."""
