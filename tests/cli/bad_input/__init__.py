"""What a user can get wrong, one case each: the words, the files that they meet, and what the one
line must name.

words.py has what a case is made of. Each of the other modules adds its cases to CASES.
"""

from bad_input import (  # noqa: F401
    benches_and_tables,
    commands_and_architectures,
    foreign_files,
    recipes_texts_spaces,
    runs,
    searches,
    trainings,
)
from bad_input.words import CASES

__all__ = ["CASES"]
