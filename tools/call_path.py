"""Counts the files of flashnas that a call needs, and their tokens: a search without trainings, from
`fn.search(..)` to its report and the printed answer; one that ranks by its own trainings alone, of
which two run in a worker, whose files do not count; an estimate, from `fn.estimate(..)` to its
bounds; and an operator, from its specification to times of its kernels in a table that is open, to
its layer and to the tensors of an exported file.

    python tools/call_path.py              # about two minutes

A file counts, as a whole, if one of its functions runs in the process, in any thread; what runs at
its import does not count. Tokens are those of tools/size.py.
"""

import json
import os
import sys
import tempfile
import threading
import warnings
from pathlib import Path

from size import python_tokens

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = f"{ROOT / 'flashnas'}{os.sep}"


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
    tokens = {file: python_tokens(Path(PACKAGE, file)) for file in files}
    rooms = {file.split("/")[0] for file in files if "/" in file}
    print(f"\n{title}: {len(files)} files in {len(rooms)} rooms, {sum(tokens.values()):,} tokens")
    for file in sorted(files, key=lambda file: (-tokens[file], file)):
        print(f"{tokens[file]:7,}  {file}")


def trip(action):
    """The files of one call, in a fork, so that nothing is kept from an earlier one."""
    if (pid := os.fork()) == 0:
        Path("files").write_text(json.dumps(sorted(called(action))))
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
    return json.loads(Path("files").read_text())


def search():
    import flashnas as fn

    return lambda: str(fn.search(budgets={"latency_ms": 20_000}, out="run"))


def search_by_trainings():
    import flashnas as fn

    return lambda: str(
        fn.search(
            space="tiny",
            budgets={"latency_ms": 20_000},
            evidence="none",
            trials=2,
            tokens=4096,
            workers=1,
            out="trained",
        )
    )


def estimate():
    import flashnas as fn

    return lambda: fn.estimate(arch="2048: 4x(m2 f) a f", table="h100_sxm", workload="decode-8k")


def operator():
    """A function that takes one operator from its specification to an exported tensor."""
    import numpy as np
    import torch

    from flashnas.families.family import families
    from flashnas.families.pieces import with_channels
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
        for piece in with_channels(
            spec.resolved(hidden), hidden, families()["nemotron_h"].weights.names["m2"]
        ):
            piece.of(layer.state_dict())

    return whole_trip


TRIPS = {
    "a search without trainings": search,
    "a search with --evidence none": search_by_trainings,
    "an estimate": estimate,
    "an operator, from its spec to a table row, a layer and an export": operator,
}


def main():
    sys.path.insert(0, str(ROOT))
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as scratch:
        os.chdir(scratch)
        os.environ |= {"OMP_NUM_THREADS": "1", "FLASHNAS_CACHE": f"{scratch}/cache"}
        for title, prepared in TRIPS.items():
            shown(title, trip(prepared()))
        os.chdir(ROOT)


if __name__ == "__main__":
    main()
