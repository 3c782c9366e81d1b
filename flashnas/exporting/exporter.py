"""Write a network for another tool: beside the target folder, checked against the original, then
moved into place."""

import importlib.util
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar

import torch

from flashnas.architecture import Architecture
from flashnas.base.errors import ExportError
from flashnas.base.system import atomic_folder, disk_errors, write_synced
from flashnas.exporting import EXPORTS
from flashnas.exporting.card import model_card
from flashnas.exporting.configuration import CARD
from flashnas.exporting.source import Source, write_tokenizer
from flashnas.families.pieces import Piece
from flashnas.network.model import HybridLM
from flashnas.network.precision import TYPES
from flashnas.operators.mixture_of_experts.spec import MixtureOfExperts


@dataclass(frozen=True)
class Written:
    """What an exporter found out.

    parity: largest difference from the original in float32 over its largest logit, by what was
    compared. notes: what the user should know, one line each. dtype: type of the weights; "": the
    one that was asked for. loading: in place of the exporter's.
    """

    parity: Mapping[str, float]
    notes: tuple[str, ...] = ()
    dtype: str = ""
    loading: str = ""


class Exporter(ABC):
    """One export format. Another package adds one by an entry point that names an instance:

        [project.entry-points."flashnas.exports"]
        onnx = "flashnas_onnx:EXPORTER"

    `flashnas list exports` shows the first sentence of its class's docstring.

    loading: Markdown for the README of the written folder: how to load it. `{name}` becomes the
        folder's name.
    options: switches and values of the format, name -> one line; none is set unless given. Of
        these, `flashnas.export` takes the ones that are fields of its ExportOptions.
    dtypes: of the weights, as `--dtype` takes them.
    library: what model hubs call the program that reads the format.
    packages: that the exporter and its check need.
    own_tokenizer: the format keeps the tokenizer in files of its own; else tokenizer.json is
    written.
    """

    loading: ClassVar[str] = ""
    options: ClassVar[Mapping[str, str]] = MappingProxyType({})
    dtypes: ClassVar[tuple[str, ...]] = tuple(TYPES)
    library: ClassVar[str] = "transformers"
    packages: ClassVar[tuple[str, ...]] = ()
    own_tokenizer: ClassVar[bool] = False

    @abstractmethod
    def write(
        self, folder: Path, source: Source, dtype: torch.dtype, **options: bool | str
    ) -> Written:
        """Write configuration and weights, read them back and compare with the original.

        Args:
            folder: an empty folder, which becomes the user's only if nothing is raised.
            source: the network; it may be changed and is not used afterwards.
            dtype: of the written weights.
            options: those of `options` that are set.

        Raises:
            ExportError: the format cannot hold the network, or the files compute something else.
        """


# package -> the extra of flashnas that installs it
EXTRAS = {"transformers": "export", "gguf": "llama-cpp", "xllamacpp": "llama-cpp"}


def export_network(
    source: Source,
    target: str,
    out: str | Path,
    *,
    dtype: str = "float32",
    options: Mapping[str, bool | str | None] = MappingProxyType({}),
) -> dict[str, Any]:
    """Write the folder `out` with weights, configuration, tokenizer and a README.

    Args:
        source: the network; it is cast in place and not to be used afterwards.
        target: a name in EXPORTS.
        out: the folder, which is new or empty.
        options: switches and values of the format; False and None: not set.

    Returns:
        The report that `flashnas export --json` prints.

    Raises:
        ExportError: the format cannot hold the network or computes something else, an option is
            wrong, or the disk is full; `out` is then not written.
    """
    out, architecture = Path(out), source.architecture
    try:
        exporter: Exporter = EXPORTS[target]
    except ModuleNotFoundError as error:
        raise _needs(target, [error.name or ""]) from None
    packages = (*exporter.packages, *(() if exporter.own_tokenizer else ("transformers",)))
    if missing := [
        name for name in dict.fromkeys(packages) if importlib.util.find_spec(name) is None
    ]:
        raise _needs(target, missing)
    chosen = _chosen(options, target)
    if dtype not in exporter.dtypes:
        raise ExportError(
            f"--dtype {dtype} is not for --to {target}"
            + ("; --type sets the type of its weights" if "type" in exporter.options else "")
        )
    with (
        disk_errors(f"--out {out}: cannot be written", ExportError),
        atomic_folder(out, existing="refuse") as fresh,
    ):
        written = exporter.write(fresh, source, getattr(torch, dtype), **chosen)
        notes = list(written.notes)
        if source.tokenizer is None:
            notes.append("no tokenizer written: the source has none; --tokenizer FILE adds one")
        elif not exporter.own_tokenizer:
            write_tokenizer(fresh, source.tokenizer, source.special)
        report = {
            "out": str(out),
            "to": target,
            "notation": architecture.notation,
            "hash": architecture.hash,
            "params": architecture.params,
            "dtype": written.dtype or dtype,
            "source": source.origin,
            "parity": dict(written.parity),
            "notes": notes,
        }
        loading = (written.loading or exporter.loading).replace("{name}", out.name)
        write_synced(fresh / CARD, model_card(report, loading, exporter.library, source))
    return report


def _chosen(options: Mapping[str, bool | str | None], target: str) -> dict[str, bool | str]:
    """The options that are set; ExportError for one that the format does not have."""
    chosen = {name: value for name, value in options.items() if value not in (False, None)}
    for name in chosen:
        if name not in EXPORTS[target].options:
            having = [other for other in EXPORTS if name in EXPORTS[other].options] or ["none"]
            raise ExportError(f"--{name.replace('_', '-')} is for --to {' or '.join(having)}")
    return chosen


def _needs(target: str, packages: Sequence[str]) -> ExportError:
    return ExportError(
        f"--to {target} needs {' and '.join(packages)}: pip install"
        f" 'flashnas[{EXTRAS.get(packages[0], 'export')}]'"
    )


def has_experts(architecture: Architecture) -> bool:
    """Whether tokens are routed."""
    return any(isinstance(spec, MixtureOfExperts) for spec in architecture.operators)


def of_all(differences: torch.Tensor, routed: bool) -> float:
    """The largest of the differences of all tokens. routed: their median, for a token that is
    between two experts by a hair may pass the other one elsewhere."""
    return float(differences.median() if routed else differences.max())


def difference(got: torch.Tensor, expected: torch.Tensor, routed: bool = False) -> float:
    """That of all tokens, relative to the largest logit."""
    return of_all((got - expected).abs().amax(-1) / expected.abs().max(), routed)


def check_differences(
    program: str, differences: Mapping[str, float], tolerance: float, end: str = ""
) -> None:
    """Raise ExportError if what a program computes differs by more than the tolerance, or is
    NaN.
    """
    for name, value in differences.items():
        if not value <= tolerance:
            raise ExportError(
                f"{program} does not compute what the network does: {name.replace('_', ' ')} differ"
                f" by {value:.1e} of the largest logit; at most {tolerance:.0e} is allowed{end}"
            )


def take_over(network: HybridLM, piece: Piece, written: torch.Tensor) -> None:
    """Put a tensor of a file into the network that it was made of; embedding and head may have more
    rows.
    """
    tensors = network.state_dict()
    if piece.source in ("embedding.weight", "head.weight"):
        written = written[: len(tensors[piece.source])]
    piece.back(written, tensors)
