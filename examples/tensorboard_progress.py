"""A search or a training in TensorBoard: the progress protocol of flashnas, and no more than two
methods.

    pip install tensorboard
    python examples/tensorboard_progress.py my_run my_events     # a small search without a training
    tensorboard --logdir my_events

Another tracker is written in the same way: `update` receives the state of the search, or a step of
the training.
"""

from __future__ import annotations

import sys
from pathlib import Path

from torch.utils.tensorboard import SummaryWriter

import flashnas as fn

SEARCH = ("done", "failed", "best_loss", "best_latency_ms")
TRAINING = ("loss", "validation", "gradient_norm", "lr_factor", "seconds")


class TensorBoard:
    """A progress object of `fn.search` and `fn.train`.

    Args:
        folder: of the events, which is made; not the run folder, which has to be new.
    """

    def __init__(self, folder: str | Path) -> None:
        self.writer = SummaryWriter(str(folder))

    def note(self, text: str) -> None:
        """A line for the user."""
        print(text, file=sys.stderr)

    def update(self, state, of_steps: int | None = None) -> None:
        """state: the snapshot of a search, or a step of a training, which comes with their
        number.
        """
        if of_steps is None:
            self.write("search", state, SEARCH, state.done + state.failed)
        else:
            self.write("train", state, TRAINING, state.number)

    def write(self, group: str, state, names: tuple[str, ...], step: int) -> None:
        for name in names:
            value = getattr(state, name)
            if value is not None:
                self.writer.add_scalar(f"{group}/{name}", value, step)
        self.writer.flush()


def loss_of(architecture) -> float:
    """Stands for a training of your own."""
    return 1e9 / architecture.params


def main(out: str, events: str) -> None:
    print(
        fn.search(
            space="tiny",
            table="h100_sxm",
            workload="chat",
            budgets={"latency_ms": 14_000},
            trials=8,
            evaluator=loss_of,
            measure=False,
            progress=TensorBoard(events),
            out=out,
        )
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
