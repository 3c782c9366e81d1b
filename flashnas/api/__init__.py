"""What the command line and notebooks call: one module per command, with its options and its
function.

`import flashnas as fn` offers the functions as `fn.search`, `fn.estimate` and so on; see
flashnas/__init__.py.
"""
