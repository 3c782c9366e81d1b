"""One architecture trained for longer, and networks written for other tools."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flashnas.api.calling import ARCHITECTURE, Quiet, Result, check_out, takes
from flashnas.base.settings import MAX_SEED, MAX_THREADS, REQUIRED, Settings, option
from flashnas.base.system import keep_memory, limit_threads
from flashnas.base.text import MAX_TOKENS
from flashnas.data.corpus import from_hub

if TYPE_CHECKING:
    from flashnas.training.job import TrainJob, TrainProgress
    from flashnas.training.trainer import Step as Step

CHECKPOINT_EVERY_S = 300.0
# options of all formats of an export
EVERY_FORMAT = ("source", "to", "out", "dtype", "init_seed", "tokenizer")


@dataclass(frozen=True, kw_only=True)
class TrainOptions(Settings, where="train"):
    arch: str = option(
        REQUIRED,
        "preset, pareto/NN.yaml, config.json or notation such as '256: 3x(d f m2 f)'",
        positional=True,
        objects=(ARCHITECTURE,),
    )
    data: str = option("sotu", "sotu, stdlib, a file or folder, or hf:NAME", connects=from_hub)
    tokens: int | None = option(
        None, "training tokens", metavar="N", shown="the recipe's", min=1, max=MAX_TOKENS
    )
    short_text: bool = option(
        False,
        "train on more than 4 epochs of the text, or validate on less than the recipe's tokens,"
        " where the text has no more",
    )
    recipe: str = option(
        "train",
        "shipped training recipe or YAML file",
        objects=("flashnas.training.recipe:Recipe",),
    )
    width_factor: int | None = option(
        None,
        "divide the architecture's widths by this",
        metavar="N",
        shown="the recipe's",
        min=1,
        max=4096,
    )
    micro_batch_sequences: int | None = option(
        None,
        "sequences per backward pass of a process; fewer need less memory",
        metavar="N",
        shown="the recipe's",
        min=0,
        max=2**24,
    )
    device: str | None = option(None, "cpu or cuda", shown="the recipe's", choices=("cpu", "cuda"))
    tokenizer: str | None = option(
        None, "tokenizer.json to use instead of training one on the corpus", metavar="FILE"
    )
    seed: int = option(
        0, "fixes the start and the order of the text", metavar="N", min=0, max=MAX_SEED
    )
    checkpoint_every_tokens: int | None = option(
        None, "training tokens between checkpoints", metavar="N", min=1, max=MAX_TOKENS
    )
    checkpoint_every_s: float | None = option(
        None,
        "seconds between checkpoints; not with --checkpoint-every-tokens",
        metavar="S",
        shown=f"{CHECKPOINT_EVERY_S:g}",
        min=0,
        max=1e9,
    )
    keep: int = option(
        2, "checkpoints that stay, the newest ones", metavar="N", min=1, max=1_000_000
    )
    threads: int | None = option(
        None,
        "torch threads of each process; 1 makes a resumed training the same to the bit",
        metavar="N",
        shown="torch's own choice",
        min=1,
        max=MAX_THREADS,
    )
    out: Path | None = option(
        None,
        "folder of the training",
        metavar="DIR",
        shown="experiments/runs/train-<time>",
        yaml=False,
    )
    resume: bool = option(False, "continue the training in --out if there is one", yaml=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.checkpoint_every_tokens is not None and self.checkpoint_every_s is not None:
            self.wrong(
                "checkpoint_every_s",
                "and --checkpoint-every-tokens exclude each other; give one of them",
            )
        if self.resume and self.out is None:
            self.wrong("resume", "needs --out, the folder of the training to continue")


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
    processes: int

    def __str__(self) -> str:
        return (
            f"loss {self.loss:.4f} nats/token, {self.bits_per_byte:.4f} bits/byte after"
            f" {self.tokens:,} tokens at {self.tokens_per_s:,.0f} tokens/s"
            f" ({self.params:,} parameters)\nweights {self.final}/"
        )


@takes(TrainOptions)
def train(
    options: TrainOptions, *, progress: TrainProgress | None = None, command: str = "flashnas.train"
) -> TrainingResult:
    """Train one architecture, with checkpoints; alone, or by several processes that torchrun
    started.

    Further:
        progress (TrainProgress): an object with `note(text)` and `update(step, of_steps)`.

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
    if options.threads is not None:
        limit_threads(options.threads)
    keep_memory()

    from flashnas.training.distributed import processes
    from flashnas.training.job import run_training

    with processes(options.threads) as ranks:
        now = ranks.broadcast_text(time.strftime("%Y%m%d-%H%M%S"))
        job = ranks.run_on_all(lambda: _job(options, now, command))
        return TrainingResult(**run_training(job, ranks, progress or Quiet()))


def _job(options: TrainOptions, now: str, command: str) -> TrainJob:
    from flashnas.architecture.source import load_architecture, position_limit
    from flashnas.training.job import TrainJob
    from flashnas.training.recipe import Recipe

    out = Path(f"experiments/runs/train-{now}") if options.out is None else check_out(options)
    changes: dict[str, Any] = {
        "tokens": options.tokens,
        "short_text": options.short_text or None,
        "device": options.device,
        "width_factor": options.width_factor,
        "micro_batch_sequences": options.micro_batch_sequences,
    }
    recipe = replace(
        Recipe.load(options.recipe),
        **{name: value for name, value in changes.items() if value is not None},
    )
    named = isinstance(options.arch, str)
    every_s = (
        CHECKPOINT_EVERY_S if options.checkpoint_every_s is None else options.checkpoint_every_s
    )
    return TrainJob(
        architecture=load_architecture(options.arch) if named else options.arch,  # type: ignore[arg-type]
        positions=position_limit(options.arch) if named else None,
        recipe=recipe,
        data=options.data,
        tokenizer=options.tokenizer,
        seed=options.seed,
        resume=options.resume,
        keep=options.keep,
        out=out,
        checkpoint_every_tokens=options.checkpoint_every_tokens,
        checkpoint_every_s=every_s,
        command=command,
    )


def targets() -> tuple[str, ...]:
    """The formats that `export` writes."""
    from flashnas.export.exporter import EXPORTS

    return tuple(EXPORTS)


@dataclass(frozen=True, kw_only=True)
class ExportOptions(Settings, where="export"):
    source: str = option(
        REQUIRED,
        "folder of trained weights, or with --init-seed a preset, pareto/NN.yaml or notation",
        positional=True,
    )
    to: str = option(
        REQUIRED,
        "gguf (llama.cpp), nemotron-h or lfm2 (transformers without flashnas) or hf"
        " (transformers and lm-evaluation-harness, with flashnas installed)",
        metavar="TARGET",
        choices=targets,
    )
    out: Path = option(
        REQUIRED, "folder to write; must not hold anything yet", metavar="DIR", yaml=False
    )
    dtype: str = option("float32", "float32 or bfloat16", choices=("float32", "bfloat16"))
    init_seed: int | None = option(
        None,
        "draw the weights of an architecture, to time it in a runtime",
        metavar="N",
        min=0,
        max=MAX_SEED,
    )
    tokenizer: str | None = option(
        None, "tokenizer.json to include", metavar="FILE", shown="that of the trained weights"
    )
    type: str | None = option(
        None,
        "gguf: type of the weights: f32, f16, bf16, q8_0, q6_k, q4_0 or q4_k",
        metavar="TYPE",
        shown="f16",
        choices=("f32", "f16", "bf16", "q8_0", "q6_k", "q4_0", "q4_k"),
    )


@dataclass(frozen=True)
class ExportResult(Result):
    """A network that was written for another program. parity: largest difference from the original
    over its largest logit, by what was compared."""

    out: str
    to: str
    notation: str
    hash: str
    params: int
    dtype: str
    source: str
    parity: dict[str, float]
    notes: list[str]

    def __str__(self) -> str:
        parity = [f"{name.replace('_', ' ')} {value:.1e}" for name, value in self.parity.items()]
        lines = [
            f"{self.out}: {self.notation}",
            f"{self.params:,} parameters in {self.dtype}, {self.source}",
            f"checked against the original (largest difference / largest logit): {', '.join(parity)}",
            *(f"note: {note}" for note in self.notes),
        ]
        return "\n".join(lines)


@takes(ExportOptions)
def export(options: ExportOptions) -> ExportResult:
    """Write a network for another program: llama.cpp, transformers, lm-evaluation-harness.

    That program computes the written network; the folder exists only if it
    agrees with the original.

    Returns:
        An ExportResult: `out`, the folder, `to`, `notation`, `params`, `dtype`, `parity` (largest
            difference from the original over its largest logit, by what was compared) and `notes`.

    Raises:
        ExportError: the target cannot hold the network, or the written network computes something
            else.
        WeightsError, ArchitectureError, CorpusError: the source or the tokenizer cannot be read.

    Example:
        >>> import flashnas as fn
        >>> found = fn.export("32(vocab=300): d(head_dim=16) f", to="hf", init_seed=0, out="my_export")
        >>> max(found.parity.values()) < 1e-4
        True
    """
    out = check_out(options, empty=True)

    from flashnas.export.exporter import export_network
    from flashnas.export.source import load_source

    source = load_source(options.source, init_seed=options.init_seed, tokenizer=options.tokenizer)
    own = {name: value for name, value in vars(options).items() if name not in EVERY_FORMAT}
    return ExportResult(**export_network(source, options.to, out, dtype=options.dtype, options=own))
