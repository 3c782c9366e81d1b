"""What a search said, and what it left."""

import pandas as pd


class Notes:
    """A progress object that keeps what it is told."""

    def __init__(self):
        self.lines, self.snapshots = [], []

    def note(self, text):
        self.lines.append(text)

    def update(self, snapshot):
        self.snapshots.append(snapshot)

    @property
    def last(self):
        return self.snapshots[-1]


def trajectory(out):
    """The trials of a run, without times."""
    trials = pd.read_parquet(out / "trials.parquet")
    return trials.drop(columns=["train_seconds", "tokens_per_s"], errors="ignore")
