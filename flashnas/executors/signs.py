"""Who is alive: counts that other machines raise in a database, watched by the clock of this one."""

from __future__ import annotations

import time


class Signs:
    """The last count of each name, and since when it is the same."""

    def __init__(self) -> None:
        self._seen: dict[str, tuple[int, float]] = {}
        self._moved: set[str] = set()

    def silent_s(self, name: str, count: int) -> float:
        """Seconds since the count changed or was first seen."""
        now = time.monotonic()
        before, since = self._seen.get(name, (None, now))
        if before == count:
            return now - since
        if before is not None:
            self._moved.add(name)
        self._seen[name] = count, now
        return 0.0

    def moved(self, name: str) -> bool:
        """True if the count has changed since it was first seen: its owner was alive then."""
        return name in self._moved

    def restart(self) -> None:
        """Forget all: nobody could give a sign, or none was seen."""
        self._seen.clear()
        self._moved.clear()
