"""Evaluators of the foreign space that take a moment."""

import json
import os
import time
from pathlib import Path

import foreign_space


def loss_and_latency(network):
    """As of foreign_space. SLOW_S: seconds that it takes; CALLS: a file for a line for each
    call.
    """
    calls = os.environ.get("CALLS")
    if calls:
        with open(calls, "a") as file:
            file.write(json.dumps([network.notation, os.getpid()]) + "\n")
    time.sleep(float(os.environ.get("SLOW_S", "0")))
    return foreign_space.loss_and_latency(network)


def calls(path):
    """(notation, pid) of each call so far."""
    return (
        [tuple(json.loads(line)) for line in Path(path).read_text().splitlines()]
        if Path(path).exists()
        else []
    )
