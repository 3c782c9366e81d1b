"""What a user can get wrong, one case each: the words, the files that they meet, and what the one
line must name.

The rules themselves are held in the rooms that state them; here each way by which a command
refuses is taken once. words.py has what a case is made of. Each of the other modules adds its cases
to CASES.
"""

from bad_input import commands, foreign_files, runs, searches, trainings  # noqa: F401
from bad_input.words import CASES

__all__ = ["CASES"]
