"""Files of observed losses: the shipped publications, and a user's own."""

from __future__ import annotations

import dataclasses
import math
import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from flashnas.architecture import Architecture
from flashnas.architecture.notation import MAX_OPERATORS, parse_operators
from flashnas.base.errors import ConfigError, FlashnasError
from flashnas.base.foreign import read_csv
from flashnas.base.text import UNITS, number_of, one_of
from flashnas.observations.losses import (
    DATA,
    DEFAULT_TOKENS,
    DEFAULT_VOCAB,
    ObservedLoss,
    as_published,
    nearest_width,
)
from flashnas.operators import OperatorSpec
from flashnas.operators.attention.spec import Attention

SHIPPED = DATA / "published_training.csv"
SHORT_TRAININGS = DATA / "short_trainings.csv"
EXPERTS = DATA / "published_experts.csv"
NEEDED = ("group", "source", "operators", "params", "metric", "value")
MIN_TOKENS = 10_000  # of a training; below it the column counts tokens for each parameter
MAX_SIZE = 2**30  # of a width or a vocabulary
MAX_NATS = 15.0  # of a loss; of random guesses among a million tokens it is 14
MIN_NOISE = 1e-4  # nats: what two trainings differ by is more
MAX_COUNT = 1e18  # of parameters or tokens
QK_NORM = ("", "yes", "no", "unknown")  # of the attention of a row; empty: as its operators say


def read_rows(path: Path, needed: Sequence[str]) -> Sequence[tuple[str, Mapping[str, str]]]:
    """The lines of a CSV of published rows: place (`file:3`), and column -> text without spaces at
    its ends, empty where there is no such column.

    Raises ConfigError for a column that is missing, an empty group or source, and a group of one
    row.
    """
    lines = [
        (place, defaultdict(str, {name: text.strip() for name, text in line.items()}))
        for place, line in read_csv(path, ConfigError, needed)
    ]
    if not lines:
        raise ConfigError(f"{path}: holds no row")
    counts = Counter(line["group"] for _, line in lines)
    for place, line in lines:
        for name in ("group", "source"):
            if not line[name]:
                raise ConfigError(f"{place}: {name} must not be empty")
        if counts[line["group"]] == 1:
            raise ConfigError(
                f"{place}: group {line['group']!r} must have at least 2 rows, because rows"
                f" compare only within their group; got 1"
            )
    return lines


def specs_of(place: str, operators: str) -> tuple[OperatorSpec, ...]:
    """The operators of a row; raises ConfigError with its place."""
    try:
        if specs := parse_operators(operators):
            return specs
        raise ConfigError("operators must not be empty")
    except FlashnasError as error:
        raise ConfigError(
            f"{place}: the notation does not express {operators!r}: {error}"
        ) from None


def read_published(path: str | Path | None = None) -> list[ObservedLoss]:
    """The rows of a CSV, in its order; None: the shipped ones of mixes of operators.

    Columns: group, source (an arXiv number; `own` for one's own trainings), operators (notation
    without a width), params (such as 438M), metric (`*_ppl` is a perplexity, `*_loss` is in nats
    per token) and value. Optional: tokens (such as 100B, or `20 tok/param`: for each parameter of
    the smallest network of the group), hidden (the width), vocab (words of the embedding that
    params holds; 0: none), active (of params those that a token uses), level, noise (nats between
    seeds), table, note.

    Raises:
        ConfigError: with file, line, rule and value.
    """
    rows = [_in_full(_row(place, line)) for place, line in read_rows(Path(path or SHIPPED), NEEDED)]
    smallest: dict[str, float] = {}
    for row in rows:
        smallest[row.group] = min(row.params, smallest.get(row.group, math.inf))
    return [
        dataclasses.replace(row, tokens=row.tokens * smallest[row.group])
        if row.tokens < MIN_TOKENS
        else row
        for row in rows
    ]


def _in_full(row: ObservedLoss) -> ObservedLoss:
    """A row with its network, where its operators have the parameters that are stated as they are:
    then nothing of them is left open, as publications leave windows and key heads."""
    if not row.hidden:
        return row
    try:
        network = Architecture(hidden=row.hidden, operators=row.specs, vocab=max(2, row.vocab))
    except FlashnasError:
        return row
    params = network.params - (0 if row.vocab else network.vocab * row.hidden)
    return dataclasses.replace(row, network=network) if params == row.params else row


def _row(place: str, line: Mapping[str, str]) -> ObservedLoss:
    specs, qk_norm = specs_of(place, line["operators"]), line["qk_norm"]
    if qk_norm not in QK_NORM:
        raise ConfigError(one_of(f"{place}: qk_norm", qk_norm, QK_NORM[1:]))
    if qk_norm == "yes":
        specs = tuple(
            dataclasses.replace(spec, qk_norm=True) if isinstance(spec, Attention) else spec
            for spec in specs
        )
    value = _number(place, "value", line["value"], most=math.inf, units={"": 1})
    if line["metric"].endswith("_ppl"):
        nats = math.log(value)
    elif line["metric"].endswith("_loss"):
        nats = value
    else:
        raise ConfigError(
            f"{place}: metric must end in _ppl (a perplexity) or _loss (nats per token);"
            f" got {line['metric']!r}"
        )
    if nats > MAX_NATS:
        raise ConfigError(
            f"{place}: value must be a loss of at most {MAX_NATS:g} nats; got {line['value']!r}"
        )
    row = ObservedLoss(
        group=line["group"],
        operators=line["operators"],
        specs=specs,
        nats=nats,
        place=place,
        params=_number(place, "params", line["params"]),
        active=_number(place, "active", active) if (active := line["active"]) else 0.0,
        tokens=_tokens(place, line["tokens"]),
        hidden=_whole(place, "hidden", line["hidden"], 0),
        vocab=_whole(place, "vocab", line["vocab"], DEFAULT_VOCAB),
        source=line["source"],
        level=line["level"],
        qk_norm=qk_norm,
        table=line["table"],
        note=line["note"],
        noise=_number(place, "noise", noise, MAX_NATS, {"": 1})
        if (noise := line["noise"])
        else None,
    )
    _check_sizes(row)
    return row


def _check_sizes(row: ObservedLoss) -> None:
    """Raise ConfigError where the sizes of a row contradict each other. Its operators may be one
    block of the network, and are at most the whole."""
    rule = ""
    if row.noise is not None and row.noise < MIN_NOISE:
        rule = f"noise must be at least {MIN_NOISE} nats; got {row.noise:g}"
    elif row.active > row.params:
        rule = f"active must be at most params, {row.params:,.0f}; got {row.active:,.0f}"
    elif row.hidden:
        words, block = row.vocab * row.hidden, _block(row)
        most = block * MAX_OPERATORS + 2 * words
        if not block / 2 <= row.params <= most:
            rule = (
                f"params must be from {block / 2:,.0f} to {most:,.0f} of these operators at hidden"
                f" {row.hidden}; got {row.params:,.0f}"
            )
    elif row.vocab > row.params and row.vocab != DEFAULT_VOCAB:
        rule = f"vocab must be below params, {row.params:,.0f}; got {row.vocab:,}"
    if rule:
        raise ConfigError(f"{row.place}: {rule}")


def _block(row: ObservedLoss) -> float:
    """Parameters of the operators of a row; where they fit its width only with sizes of their own, those
    at the nearest width that publications are built at."""
    for width in (row.hidden, nearest_width(row.hidden)):
        try:
            params = sum(spec.params(width) for spec in as_published(row.specs, width))
            return params * (row.hidden / width) ** 2
        except FlashnasError as error:
            reason = str(error)
    raise ConfigError(f"{row.place}: hidden {row.hidden}: {reason}")


def _tokens(place: str, text: str) -> float:
    """Tokens of a training; a number below MIN_TOKENS is one for each parameter."""
    if not text:
        return DEFAULT_TOKENS
    if per_parameter := re.fullmatch(r"([\d.]+) tok/param( \(.*\))?", text):
        return _number(place, "tokens", per_parameter[1])
    tokens = _number(place, "tokens", text)
    if tokens < MIN_TOKENS:
        raise ConfigError(
            f"{place}: tokens must be a number of at least {MIN_TOKENS:,}, such as 100B, or"
            f" such as '20 tok/param'; got {text!r}"
        )
    return tokens


def _whole(place: str, name: str, text: str, default: int) -> int:
    if not text:
        return default
    if not (text.isascii() and text.isdecimal()) or int(text) > MAX_SIZE:
        raise ConfigError(
            f"{place}: {name} must be a whole number up to {MAX_SIZE:,}; got {text!r}"
        )
    return int(text)


def _number(
    place: str,
    name: str,
    text: str,
    most: float = MAX_COUNT,
    units: dict[str, int] = UNITS,
) -> float:
    number = number_of(text, units)
    if math.isnan(number):
        raise ConfigError(
            f"{place}: {name} must be a number above 0, such as"
            f" {'350M' if 'M' in units else 8.6}; got {text!r}"
        )
    if number > most:
        raise ConfigError(f"{place}: {name} must be at most {most:g}; got {text!r}")
    return number
