"""Search spaces: YAML -> SearchSpace, which samples, mutates, repairs and encodes operator lists. No torch."""

from flashnas.space.base import Genotype, SearchSpace
from flashnas.space.load import load_space

__all__ = ["Genotype", "SearchSpace", "load_space"]
