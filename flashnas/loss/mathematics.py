"""Which mixers publications count as one kind of mathematics. An operator that they have not trained
has no entry, whatever it says of itself."""

ATTENTION, STATE_SPACE = "attention", "state space"
DELTA_RULE, LINEAR_ATTENTION = "delta rule", "linear attention"
MATHEMATICS = {
    "a": ATTENTION,
    "swa": ATTENTION,
    "m": STATE_SPACE,
    "m2": STATE_SPACE,
    "gla": LINEAR_ATTENTION,
    "d": DELTA_RULE,
    "gd": DELTA_RULE,
    "kda": DELTA_RULE,
    "r7": DELTA_RULE,
}
