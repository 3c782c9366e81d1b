"""flashnas-bench: networks that were really trained by one recipe, as a table that a search answers from.

`plan.py` lists what to train, `grow.py` trains it, `journal.py` keeps each finished training, `build.py`
makes the shipped parquet file of journals, `table.py` reads it, and `answers.py` gives a search the scores
that it holds.

    import flashnas.bench
    frame = flashnas.bench.load()           # a pandas DataFrame, one row for each training
    flashnas.bench.COLUMNS["loss"]          # what a column means
"""

from flashnas.bench.table import COLUMNS, Bench, load

__all__ = ["COLUMNS", "Bench", "load"]
