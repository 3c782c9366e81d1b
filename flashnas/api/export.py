"""Networks written for other programs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from flashnas.api.calling import Result, takes, writable_out
from flashnas.base.settings import MAX_SEED, REQUIRED, Settings, option

# options of all formats of an export
EVERY_FORMAT = ("source", "to", "out", "dtype", "init_seed", "tokenizer", "no_weights")


def targets() -> tuple[str, ...]:
    """The formats that `export` writes."""
    from flashnas.exporting import EXPORTS

    return tuple(EXPORTS)


@dataclass(frozen=True, kw_only=True)
class ExportOptions(Settings, where="export"):
    source: str = option(
        REQUIRED,
        "folder of trained weights, or with --init-seed or --no-weights a preset, pareto/NN.yaml,"
        " config.json or notation",
        positional=True,
    )
    to: str = option(
        REQUIRED,
        "gguf (llama.cpp) or hf (transformers, vLLM, SGLang, MLX; a network that no family of theirs"
        " holds: transformers with flashnas installed)",
        metavar="TARGET",
        choices=targets,
    )
    out: Path = option(REQUIRED, "folder to write; must not hold anything yet", yaml=False)
    dtype: str = option("float32", "float32 or bfloat16", choices=("float32", "bfloat16"))
    init_seed: int | None = option(
        None,
        "draw the weights of an architecture, to time it in a runtime",
        min=0,
        max=MAX_SEED,
    )
    no_weights: bool = option(
        False, "hf: the configuration alone, to time the network where it will be served"
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

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.no_weights and (self.to != "hf" or self.init_seed is not None):
            self.wrong("no_weights", "is for --to hf, without --init-seed")
        if self.no_weights and self.type is not None:
            self.wrong("type", "is of weights, and --no-weights writes none")
        if self.out.suffix == ".gguf":
            self.wrong("out", f"must be a folder, which gets model.gguf; got '{self.out}'")


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
            f"checked against the original (largest difference / largest logit): {', '.join(parity)}"
            if parity
            else "nothing was computed",
            *(f"note: {note}" for note in self.notes),
        ]
        return "\n".join(lines)


@takes(ExportOptions)
def export(options: ExportOptions) -> ExportResult:
    """Write a network for another program: llama.cpp, transformers, vLLM, SGLang, MLX.

    llama.cpp or transformers computes the written network; the folder exists only if it agrees with
    the original. With `no_weights` nothing is computed: the folder has config.json alone.

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
    out = writable_out(options, empty=True)
    if options.no_weights:
        from flashnas.exporting.configuration import export_configuration
        from flashnas.families.family import needed_family

        network = export_configuration(
            options.source, out, dtype=options.dtype, tokenizer=options.tokenizer
        )
        return ExportResult(
            out=str(out),
            to=options.to,
            notation=network.notation,
            hash=network.hash,
            params=network.params,
            dtype=options.dtype,
            source="without weights",
            parity={},
            notes=needed_family(network, "a plain checkpoint").changes(network),
        )

    from flashnas.exporting.exporter import export_network
    from flashnas.exporting.source import load_source

    source = load_source(options.source, init_seed=options.init_seed, tokenizer=options.tokenizer)
    own = {name: value for name, value in vars(options).items() if name not in EVERY_FORMAT}
    return ExportResult(**export_network(source, options.to, out, dtype=options.dtype, options=own))
