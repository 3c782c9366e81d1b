"""The only room that starts a clock: timing of operators and whole models, and what follows from
it.
"""
