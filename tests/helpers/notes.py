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
