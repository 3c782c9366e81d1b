"""Whether a config.json is worth its hours of training: yes, no or not known.

    python examples/worth_training.py my_model/config.json 2688

It is where nothing that is as good is faster. Options of `fn.search` such as `table`, `runtime`, `params` or
`train_tokens` make the question yours.
"""

import sys
import tempfile

import flashnas as fn
from flashnas.base.errors import BudgetError


def worth_training(config, hours, workload="decode-8k"):
    """(yes, no or not known; why) of a config.json and hours of the table's device."""
    with tempfile.TemporaryDirectory() as out:
        try:
            run = fn.search(as_good_as=config, workload=workload, out=f"{out}/run")
        except BudgetError:
            return "not known", "no network of the space is as good"
    found = run.answer.as_good
    model, fastest, likely = found["model"], found["chosen"], found["likely"]
    if model["train_hours"] > hours:
        return "no", f"its training takes {model['train_hours']:,.0f} hours"
    if model["outside"]:
        return "not known", f"outside what publications have trained: {model['outside']}"
    if likely and likely["latency_ms"] < model["latency_ms"]:
        return "no", f"as good with probability 0.9, and faster: {likely['notation']}"
    if fastest["latency_ms"] < model["latency_ms"]:
        chance = fastest["probability"]
        return (
            "not known",
            f"as good with probability {chance:.2f}, and faster: {fastest['notation']}",
        )
    return "yes", "no network of the space that is as good is faster"


if __name__ == "__main__":
    print(*worth_training(sys.argv[1], float(sys.argv[2])), sep=": ")
