"""One architecture trained for longer, or weights trained further."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from flashnas.api.calling import ARCHITECTURE, Result, default_out, silent, takes, writable_out
from flashnas.base.errors import ConfigError
from flashnas.base.settings import MAX_SEED, MAX_THREADS, REQUIRED, Settings, option
from flashnas.base.system import keep_memory, limit_threads
from flashnas.base.text import MAX_TOKENS, from_hub, printable

if TYPE_CHECKING:
    from flashnas.training.job import TrainJob, TrainProgress
    from flashnas.training.recipe import Recipe
    from flashnas.training.trainer import Step as Step


@dataclass(frozen=True, kw_only=True)
class TrainOptions(Settings, where="train"):
    gone: ClassVar[dict[str, str]] = {
        "distill": "it served conversions alone; 0.2.0 keeps it",
    }
    arch: str = option(
        REQUIRED,
        "preset, pareto/NN.yaml, config.json or notation such as '256: 3x(d f m2 f)'; or a folder"
        " of a training or of an export --to hf, whose weights are trained further",
        positional=True,
        instance=ARCHITECTURE,
    )
    data: str = option("sotu", "sotu, stdlib, a file or folder, or hf:NAME", connects=from_hub)
    tokens: int | None = option(
        None, "training tokens", shown="the recipe's", min=1, max=MAX_TOKENS
    )
    short_text: bool = option(
        False,
        "train on more than 4 epochs of the text, or validate on less than the recipe's tokens,"
        " where the text has no more",
    )
    recipe: str | None = option(
        None,
        "shipped training recipe or YAML file",
        shown="train; further for weights that are trained further",
        instance="flashnas.training.recipe:Recipe",
    )
    width_factor: int | None = option(
        None,
        "divide the architecture's widths by this",
        shown="the recipe's",
        min=1,
        max=4096,
    )
    micro_batch_sequences: int | None = option(
        None,
        "sequences per backward pass; fewer need less memory",
        shown="the recipe's",
        min=0,
        max=2**24,
    )
    device: str | None = option(None, "cpu or cuda", shown="the recipe's", choices=("cpu", "cuda"))
    tokenizer: str | None = option(
        None, "tokenizer.json to use instead of training one on the corpus", metavar="FILE"
    )
    seed: int = option(0, "fixes the start and the order of the text", min=0, max=MAX_SEED)
    checkpoint_every_tokens: int | None = option(
        None, "at most so many training tokens between checkpoints", min=1, max=MAX_TOKENS
    )
    checkpoint_every_s: float = option(
        300.0, "at most so many seconds between checkpoints", metavar="S", min=0, max=10**9
    )
    keep: int = option(2, "checkpoints that stay, the newest ones", min=1, max=1_000_000)
    threads: int = option(
        1,
        "torch threads; more than 1 suit wide networks on idle cores, and a resumed training is no longer"
        " the same to the bit",
        min=1,
        max=MAX_THREADS,
    )
    out: Path | None = option(
        None,
        "folder of the training",
        shown="experiments/runs/train-<time>",
        yaml=False,
    )
    resume: bool = option(False, "continue the training in --out if there is one", yaml=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.resume and self.out is None:
            self.wrong("resume", "needs --out, the folder of the training to continue")
        if self.out is None:
            object.__setattr__(self, "out", default_out("train"))


@dataclass(frozen=True)
class TrainingResult(Result):
    """A finished training: its folders and network, and the fields of
    flashnas.training.trainer.Score."""

    run: str
    final: str
    notation: str
    hash: str
    params: int
    loss: float
    bits_per_byte: float
    curve: list[list[float]]
    tokens: int
    tokens_per_s: float
    seconds: float
    seed: int
    proxy_params: int
    backends: dict[str, str]
    resumed_at_step: int

    def __str__(self) -> str:
        return (
            f"loss {self.loss:.4f} nats/token, {self.bits_per_byte:.4f} bits/byte after"
            f" {self.tokens:,} tokens at {self.tokens_per_s:,.0f} tokens/s"
            f" ({self.params:,} parameters)\nweights {self.final}/\nfor short trainings: in full, and on"
            " several GPUs, examples/train_exported.py trains what export --to hf --no-weights writes"
        )


@takes(TrainOptions)
def train(
    options: TrainOptions, *, progress: TrainProgress = silent, command: str = "flashnas.train"
) -> TrainingResult:
    """Train one architecture, with checkpoints. The weights of a folder that `train` or `export --to
    hf` wrote are trained further, by the recipe `further` and with their tokenizer.

    Further:
        progress (TrainProgress): an object with `note(text)` and `update(step, of_steps)`.
        command (str): what the folder records as the command that made it.

    Returns:
        A TrainingResult: `loss` in nats per token and `bits_per_byte`, both of the validation slice;
            `run` and `final`, the folders of the training and of the weights; `curve`, `tokens`,
            `tokens_per_s`, `params`, `notation` and `hash`.

    Raises:
        ConfigError: for an option, recipe or corpus that cannot be used.
        CandidateError: the training diverged or ran out of memory.
        WeightsError: a checkpoint cannot be used.

    Example:
        >>> import flashnas as fn
        >>> recipe = fn.Recipe(width_factor=1, vocab=300, sequence_tokens=32, tokens=256,
        ...                    validation_tokens=64, curve_tokens=32, dtype="float32")
        >>> found = fn.train("32(vocab=300): d(head_dim=16) f", recipe=recipe, data="my_texts",
        ...                  out="my_training")
        >>> found.loss < 10
        True
    """
    count = os.environ.get("WORLD_SIZE", "1")
    if count != "1" and "TORCHELASTIC_RUN_ID" in os.environ:
        raise ConfigError(
            f"train: must be one process; torchrun started {printable(count)}. Start it without"
            " torchrun, or train what `flashnas export --to hf` writes with a trainer for several"
            " GPUs (flashnas 0.2.0 still has processes)"
        )
    limit_threads(options.threads)
    keep_memory()

    from flashnas.training.job import run_training

    return TrainingResult(**run_training(_job(options, command, progress), progress))


def _job(options: TrainOptions, command: str, progress: TrainProgress) -> TrainJob:
    from flashnas.architecture.source import load_architecture
    from flashnas.exporting.source import load_source, weights_folder
    from flashnas.training.job import TrainJob
    from flashnas.training.trainer import Start

    out = writable_out(options)
    named = isinstance(options.arch, str)
    folder = weights_folder(options.arch) if named else None
    recipe = _recipe(options, folder)
    start = None
    tokenizer = options.tokenizer
    if folder is not None:
        source = load_source(options.arch, tokenizer=tokenizer)
        if source.tokenizer_file is None:
            options.wrong(
                "tokenizer",
                f"must name the tokenizer.json of the weights, since {folder} has none",
            )
        tokenizer = str(source.tokenizer_file)
        start, architecture = Start(source.network, source.sha256), source.architecture
    elif named:
        architecture = load_architecture(options.arch)
    else:
        architecture = options.arch  # type: ignore[assignment]
    return TrainJob(
        architecture=architecture,
        start=start,
        recipe=recipe,
        data=options.data,
        tokenizer=tokenizer,
        seed=options.seed,
        resume=options.resume,
        keep=options.keep,
        out=out,
        checkpoint_every_tokens=options.checkpoint_every_tokens,
        checkpoint_every_s=options.checkpoint_every_s,
        command=command,
    )


def _recipe(options: TrainOptions, weights: Path | None) -> Recipe:
    from flashnas.training.recipe import START, Recipe, shipped_recipes

    named = options.recipe or ("train" if weights is None else "further")
    recipe = Recipe.load(named)
    if weights is not None and named not in shipped_recipes():
        usual = Recipe()
        for name in START:
            if (value := getattr(recipe, name)) != getattr(usual, name):
                raise ConfigError(
                    f"recipe {recipe.name!r}: {name} is of weights that are drawn, and those of"
                    f" {weights} are there; leave it out, got {value:g}"
                )
    changes: dict[str, Any] = {"short_text": options.short_text or recipe.short_text}
    for name in ("tokens", "device", "width_factor", "micro_batch_sequences"):
        if (value := getattr(options, name)) is not None:
            changes[name] = value
    return replace(recipe, **changes)
