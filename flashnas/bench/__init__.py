"""flashnas-bench: networks that were really trained by one recipe, as a table that a search answers
from.

import flashnas.bench
frame = flashnas.bench.load()           # a pandas DataFrame, one row for each training
flashnas.bench.COLUMNS["loss"]          # what a column means
"""

from flashnas.bench.table import COLUMNS, Bench, load

__all__ = ["COLUMNS", "Bench", "load"]
