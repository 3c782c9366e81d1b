"""What the author of an operator runs. `check_operator` raises AssertionError with one line that
names the rule that is broken; it does not need pytest:

    from flashnas.testing import check_operator

    def test_operator():
        check_operator("gsc")

The tests of flashnas call the same function for every operator that it ships.
"""

from flashnas.testing.operator import check_operator as check_operator
