"""A bench as a parquet file: its columns, and the loader."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import pandas as pd

from flashnas.base.documents import convert
from flashnas.base.errors import BenchError, FlashnasError
from flashnas.base.foreign import parse_json, parse_json_cells, read_bytes, read_parquet
from flashnas.base.registry import shipped_names
from flashnas.base.text import did_you_mean, first_line, shown
from flashnas.operators import OPERATORS
from flashnas.training.recipe import Recipe

FILE = "bench.parquet"
FORMAT = 1
META = b"flashnas_bench"  # key of the header among the metadata of the parquet file
# starts of further columns: latency_ms/<table>/<workload>, the time of one request at full width as
# a shipped latency table predicts it; measured_ttft_ms/<workload> and measured_tpot_ms/<workload>,
# timed on a CPU
LATENCY, MEASURED = "latency_ms/", "measured_"
JSON = ("backends", "more")
NUMBERS = ("loss", "bits_per_byte", "seconds", "tokens_per_s")
WHOLE = ("hidden", "depth", "params", "width_factor", "vocab", "proxy_params", "seed", "tokens")
FIGURES = (
    "architecture",
    "proxy_hash",
    "origin",
    "seed",
    "bits_per_byte",
    "seconds",
    "tokens_per_s",
    "tokens",
    "proxy_params",
)  # of every training that did not fail
MORE = (LATENCY, MEASURED)
COUNTS = {f"n_{kind}": f"operators {kind!r} in the network" for kind in OPERATORS.shipped}
COLUMNS = {
    "architecture": "notation of the network at full width",
    "hidden": "its width",
    "depth": "its operators, feed-forward ones included",
    "mixers": "kinds of its token mixers, sorted, joined by a space",
    **COUNTS,
    "params": "its parameters, with its own vocabulary",
    "origin": "name of the search space that it was drawn from, or published:<group>",
    "recipe": "name of the recipe",
    "recipe_digest": "of all settings of the recipe on which the loss of a given network depends",
    "width_factor": "by which its widths were divided; missing where the trained network follows"
    " from another rule",
    "dataset": "text, as --data names it",
    "dataset_digest": "of text and tokenizer",
    "vocab": "tokens of the tokenizer, which the trained network has in place of its own",
    "proxy": "notation of the network that was trained",
    "proxy_hash": "its hash",
    "proxy_params": "its parameters",
    "seed": "of start and order of the text",
    "loss": "validation loss in nats per token after the last step; missing where the training"
    " failed",
    "bits_per_byte": "the same loss per byte of text",
    "curve": "[training tokens, validation loss] pairs; all but the last use a part of the"
    " validation text",
    "tokens": "training tokens",
    "tokens_per_s": "training tokens per second of one thread on the machine that trained it",
    "seconds": "of the whole training, with validation",
    "backends": "JSON: what computed each kind of operator",
    "more": "JSON: further figures of the score, if the recipe gives some",
    "reason": "why the training failed; empty for the others",
}
DEFAULT = "cpu"  # the shipped bench that is meant where none is named


@dataclass(frozen=True, kw_only=True)
class _HeaderLine:
    flashnas_bench: int
    recipe: dict[str, Any]
    source: str
    dataset: str
    vocab: int


@dataclass(frozen=True)
class Header:
    """How all networks of a bench were trained.

    recipe: its width factor is for spaces without one of their own. source: of the text, as
    `--data` names it. dataset: digest of text and tokenizer.
    """

    recipe: Recipe
    source: str
    dataset: str
    vocab: int

    def difference(self, recipe: Recipe, dataset: str, vocab: int) -> str | None:
        """In what the trainings of a search differ from those of this bench, in words; None if
        nothing does."""
        here, there = self.recipe.training_settings, recipe.training_settings
        for name in here:
            if here[name] != there[name]:
                return (
                    f"recipe.{name} is {shown(here[name])} in the bench and {shown(there[name])} in"
                    " this search"
                )
        if vocab != self.vocab:
            return f"the vocabulary has {self.vocab} tokens in the bench and {vocab} in this search"
        if dataset != self.dataset:
            return (
                f"text and tokenizer have the digest {self.dataset} ({self.source}) in the bench"
                f" and {dataset} in this search"
            )
        return None

    @classmethod
    def from_dict(cls, data: Any, place: str) -> Self:
        """Raises BenchError, with the place, for what is not a header of this format."""
        if not isinstance(data, Mapping) or "flashnas_bench" not in data:
            raise BenchError(f"{place}: not the header of a bench (it has no key 'flashnas_bench')")
        if data["flashnas_bench"] != FORMAT:
            raise BenchError(
                f"{place}: a bench of format {shown(data['flashnas_bench'])}; this version of"
                f" flashnas reads format {FORMAT}"
            )
        line = convert(data, _HeaderLine, place, BenchError, name="header")
        try:
            recipe = Recipe.from_dict(line.recipe)
        except FlashnasError as error:
            raise BenchError(f"{place}: {error}") from None
        return cls(recipe, line.source, line.dataset, line.vocab)


@dataclass(frozen=True)
class Bench:
    """A bench that was read.

    path: the folder. digest: 16 hex digits of the file. frame: one row for each training.
    """

    path: Path
    header: Header
    digest: str
    frame: pd.DataFrame = field(repr=False)

    @property
    def name(self) -> str:
        return self.path.resolve().name

    @classmethod
    def read(cls, source: str | Path | None = None) -> Bench:
        """A shipped bench by name, or a folder that holds bench.parquet; None: the shipped one.

        Raises:
            BenchError: in one line, for a bench that is missing, damaged or of an unknown format.
        """
        path = _find(source)
        data = read_bytes(path / FILE, BenchError)
        header, frame = _parse(path / FILE, data)
        return cls(path, header, hashlib.sha256(data).hexdigest()[:16], frame)


def load(source: str | Path | None = None, *, failed: bool = False) -> pd.DataFrame:
    """The trainings of a bench, one a row; `COLUMNS` says what each column means.

    Args:
        source: a shipped bench by name, or a folder that holds bench.parquet; None: the shipped
            one.
        failed: also those that failed, whose loss is missing.

    Returns:
        A DataFrame; `frame.attrs` holds `bench` (the folder), `digest`, `recipe` (all its fields),
        `dataset` and `vocab`.

    Raises:
        BenchError: in one line, for a bench that is missing, damaged or of an unknown format.

    Example:
        >>> import flashnas.bench
        >>> flashnas.bench.COLUMNS["seed"]
        'of start and order of the text'
    """
    bench = Bench.read(source)
    header, frame = bench.header, bench.frame
    rows = (frame if failed else frame[frame["loss"].notna()]).reset_index(drop=True)
    rows.attrs.update(
        bench=str(bench.path),
        digest=bench.digest,
        recipe=header.recipe.to_dict(),
        dataset=header.dataset,
        vocab=header.vocab,
    )
    return rows


def shipped_benches() -> dict[str, Path]:
    """Name -> folder of the benches that come with this version."""
    return shipped_names("bench_tables", FILE)


def _find(source: str | Path | None) -> Path:
    shipped = shipped_benches()
    if not isinstance(source, str | os.PathLike | None):
        raise BenchError(f"a bench must be a name or the path of a folder; got {shown(source)}")
    if source is None:
        return shipped[DEFAULT]
    if str(source) in shipped:
        return shipped[str(source)]
    path = Path(source)
    if not path.is_dir():
        raise BenchError(
            f"bench {str(source)!r}: no shipped bench{did_you_mean(source, shipped)} and no"
            f" folder; shipped: {', '.join(shipped)}"
        )
    if not (path / FILE).exists():
        raise BenchError(f"{path}: not a bench, it has no {FILE}")
    return path


def _parse(file: Path, data: bytes) -> tuple[Header, pd.DataFrame]:
    import pyarrow.parquet as pq

    frame = read_parquet(file, BenchError, data=data)
    text = (pq.read_schema(io.BytesIO(data)).metadata or {}).get(META)
    if text is None:
        raise BenchError(f"{file}: not a bench of flashnas (its metadata has no {META.decode()!r})")
    meta = parse_json(text, f"{file}: metadata {META.decode()!r}", BenchError)
    header = Header.from_dict(meta, str(file))
    for name in COLUMNS:
        if name not in frame.columns and name not in COUNTS:
            raise BenchError(f"{file}: damaged: column {name!r} is missing")
    for name in set(COUNTS) - set(frame.columns):  # an operator that is newer than the bench
        frame[name] = 0
    column = "curve"
    try:
        curves = [
            [[int(tokens), float(loss)] for tokens, loss in curve] for curve in frame["curve"]
        ]
        frame["curve"] = pd.Series(curves, index=frame.index, dtype=object)
        for column in (*NUMBERS, *WHOLE, *COUNTS):
            frame[column] = pd.to_numeric(frame[column])
        frame = frame.astype(dict.fromkeys(NUMBERS, "float64"))
    except (ValueError, TypeError) as error:
        raise BenchError(f"{file}: damaged: column {column!r}: {first_line(error)}") from None
    for column in JSON:
        frame[column] = parse_json_cells(
            list(frame[column]), f"{file}: damaged: column {column!r}", BenchError
        )
    for column in FIGURES:
        if frame.loc[frame["loss"].notna(), column].isna().any():
            raise BenchError(
                f"{file}: damaged: column {column!r} has no value in a row with a loss"
            )
    columns = [*COLUMNS, *(name for name in frame.columns if name.startswith(MORE))]
    return header, frame[columns]
