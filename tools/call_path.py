"""Counts the files of flashnas that a search calls, from `fn.search(..)` to its report, an
estimate, from `fn.estimate(..)` to its bounds, and an operator, from its specification to times of
its kernels in a table that is open, to its layer and to the tensors of an exported file.

    python tools/call_path.py              # about half a minute

A file counts if one of its functions runs in the process that searches, in any thread; what runs at
its import does not count. The main trip is what all of the searches below have in common.
"""

import json
import os
import random
import sys
import tempfile
import threading
import warnings
from collections import defaultdict
from functools import partial
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = f"{ROOT / 'flashnas'}{os.sep}"
RECIPE = """\
{width_factor: 1, vocab: 300, sequence_tokens: 32, batch_sequences: 4, tokens: 512, validation_tokens: 512,
 curve_points: 4, curve_tokens: 128, muon_lr: 0.01, adamw_lr: 0.003, dtype: float32}
"""
COMMON = {
    "space": "tiny",
    "workload": "chat",
    "calibration": "paper",
    "budget_ms": 60,
    "trials": 4,
    "workers": 1,
    "measure": False,
}
TRAINED = {"recipe": "quick.yaml", "data": "texts.txt"}
SEARCHES = {
    "an evaluator and a table": {"evaluator": lambda architecture: 1 / architecture.params},
    "trainings, ranked by the short loss": {**TRAINED, "rank_by": "short"},
    "trainings, ranked by the full loss": TRAINED,
}
ESTIMATE = {"arch": "2048: 4x(m2 f) a f", "table": "h100_sxm", "workload": "decode-8k"}


def imports(frame):
    return frame.f_code.co_name == "<module>" and frame.f_code.co_filename.startswith(PACKAGE)


def called(action):
    """The files of the package of which a function was called."""
    found = set()

    def note(frame, event, argument):
        code = frame.f_code
        if (
            event == "call"
            and code.co_filename.startswith(PACKAGE)
            and code.co_filename.endswith(".py")
        ):
            while frame and not imports(frame):  # what a module calls at its import does not count
                frame = frame.f_back
            if frame is None:
                found.add(code.co_filename.removeprefix(PACKAGE))

    threading.setprofile(note)
    sys.setprofile(note)
    try:
        action()
    finally:
        sys.setprofile(None)
        threading.setprofile(None)
    return found


def shown(title, files):
    rooms = defaultdict(list)
    for file in sorted(files):
        *room, name = file.split("/", 1)
        rooms[room[0] if room else "flashnas"].append(name)
    print(f"\n{title}: {len(files)} files in {len(rooms)} rooms")
    for room, names in rooms.items():
        print(f"  {room:13}{len(names):3}  {' '.join(name.removesuffix('.py') for name in names)}")


def trip(action, number):
    """The files of one call, in a fork, so that nothing is kept from an earlier one."""
    if (pid := os.fork()) == 0:
        files = called(action)
        Path(f"files{number}").write_text(json.dumps(sorted(files)))
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
    return set(json.loads(Path(f"files{number}").read_text()))


def operator():
    """A function that takes one operator from its specification to an exported tensor."""
    import numpy as np
    import torch

    from flashnas.formats.nemotron_h import NAMES
    from flashnas.formats.pieces import with_channels
    from flashnas.latency.lookup import KernelTimes
    from flashnas.latency.table import LatencyTable
    from flashnas.operators import OPERATORS
    from flashnas.operators.layer import build_layer

    table, hidden = LatencyTable.load("h100_sxm"), 64

    def whole_trip():
        spec = OPERATORS["m2"](head_dim=16, state=16)
        times = KernelTimes(table, "bfloat16")
        for call in spec.kernels(hidden, "decode"):
            times.time(call, "decode", 1, np.array([1024.0]))
        layer = build_layer(spec, hidden)
        assert sum(weight.numel() for weight in layer.parameters()) + hidden == spec.params(hidden)
        y_BTD, state = layer(torch.randn(1, 9, hidden))
        layer.step(y_BTD[:, -1], state)
        for piece in with_channels(spec.resolved(hidden), hidden, NAMES["m2"]):
            piece.of(layer.state_dict())

    return whole_trip


def main():
    sys.path.insert(0, str(ROOT))
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as scratch:
        os.chdir(scratch)
        os.environ.update(
            OMP_NUM_THREADS="1", PYTHONPATH=str(ROOT), FLASHNAS_CACHE=f"{scratch}/cache"
        )
        Path("quick.yaml").write_text(RECIPE)
        rng = random.Random(0)
        Path("texts.txt").write_text(
            "".join(rng.choice("the state of a token ") for _ in range(60_000))
        )
        import flashnas as fn

        trips = {
            title: trip(partial(fn.search, **COMMON, **options, out=f"run{number}"), number)
            for number, (title, options) in enumerate(SEARCHES.items())
        }
        estimate = trip(partial(fn.estimate, **ESTIMATE), len(SEARCHES))
        of_operator = trip(operator(), len(SEARCHES) + 1)
        os.chdir(ROOT)
    main_trip = set.intersection(*trips.values())
    for title, files in {
        **trips,
        "main trip, common to all": main_trip,
        "an estimate": estimate,
        "an operator, from its spec to a table row, a layer and an export": of_operator,
    }.items():
        shown(title, files)


if __name__ == "__main__":
    main()
