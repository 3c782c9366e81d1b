"""What a bench holds. `flashnas.bench.load` reads it as a DataFrame."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from flashnas.api.calling import takes
from flashnas.base.settings import Settings, option

if TYPE_CHECKING:
    from flashnas.bench import Bench


@dataclass(frozen=True, kw_only=True)
class BenchInfoOptions(Settings, where="bench_info"):
    bench: str | None = option(
        None, "shipped bench or folder", positional=True, shown="the shipped one"
    )


@takes(BenchInfoOptions)
def bench_info(options: BenchInfoOptions) -> Bench:
    """What a bench holds and how it was trained.

    Returns:
        The Bench, which prints; `frame` holds its trainings.
    """
    from flashnas.bench import Bench

    return Bench.read(options.bench)
