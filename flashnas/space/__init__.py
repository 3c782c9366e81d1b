"""Search spaces: YAML -> SearchSpace, which samples, mutates, repairs and encodes genotypes. No
torch.
"""

from flashnas.space.base import ArchitectureLike, SearchSpace
from flashnas.space.load import TEMPLATES, load_operator_space, load_space
from flashnas.space.operator_space import OperatorSpace

__all__ = [
    "TEMPLATES",
    "ArchitectureLike",
    "OperatorSpace",
    "SearchSpace",
    "load_operator_space",
    "load_space",
]
