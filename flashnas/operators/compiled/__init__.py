"""Recurrences, and what surrounds them, compiled by Numba for CPUs. Only `backends/numba.py` imports these
modules."""
