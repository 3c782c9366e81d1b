"""Every genotype of a space once, in its order."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

from flashnas.base.errors import ConfigError
from flashnas.samplers.sampler import Genotype, Sampler
from flashnas.trials.trial import Trial

MOST = 1_000_000  # genotypes of a space that is listed


class Exhaustive(Sampler):
    """Lists the space: every genotype once, in its order; the default where networks are scored and
    the space is small."""

    name = "exhaustive"
    until_quiet = False

    def __init__(self, **shared: Any) -> None:
        super().__init__(**shared)
        if self.space.size() > MOST:
            raise ConfigError(
                f"search.sampler: exhaustive lists spaces of up to {MOST:,} genotypes; space"
                f" {self.space.name!r} has {self.space.size():.3g}"
            )
        self._left = self.space.enumerate()

    def _propose(self, count: int) -> Iterator[Genotype]:
        fresh = (genotype for genotype in self._left if genotype not in self._proposed)
        return itertools.islice(fresh, count)

    def _learn(self, trial: Trial) -> None:
        pass
