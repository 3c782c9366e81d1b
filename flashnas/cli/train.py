"""`flashnas train`; alone, or by several processes as `torchrun --nproc-per-node 2 -m flashnas train ..`."""

from __future__ import annotations

import sys

from flashnas.api.train import TrainOptions, train
from flashnas.base.errors import CandidateError
from flashnas.cli.command import command_line, show
from flashnas.cli.options import first_process
from flashnas.cli.progress import TrainingProgress

DIVERGED = 4  # exit code of a training that ended with NaN, divergence or without memory


def run(options: TrainOptions, as_json: bool) -> int:
    first = first_process()
    with TrainingProgress(sys.stderr, silent=not first) as progress:
        try:
            found = train(options, progress=progress, command=command_line())
        except CandidateError as error:  # on all processes alike, but for the lack of memory
            if first or "out of memory" in str(error):
                print(f"flashnas train: {error}", file=sys.stderr)
            return DIVERGED
    if first:
        show(found, as_json)
    return 0
