"""What others have trained in full: publications, and what they say of two mixes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from flashnas.api.calling import Result, takes
from flashnas.base.settings import Settings, option
from flashnas.base.text import EVIDENCE_HELP, columns, signed, table, tokens_text, with_interval

COLUMNS = {
    "<publication": "{source}",
    "rows": "{rows}",
    "<parameters": "{params}",
    "<tokens": "{tokens}",
    "spread": "{spread}",
    "<mixers": "{mixers}",
}


@dataclass(frozen=True, kw_only=True)
class EvidenceOptions(Settings, where="evidence"):
    mixes: tuple[str, ...] = option(
        (),
        "two mixes to compare, without a width, such as 'a f' 'm2 f'; none: all publications are"
        " listed alone",
        metavar="MIX",
        positional=True,
    )
    evidence: str | None = option(None, EVIDENCE_HELP, metavar="FILE")

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.mixes) not in (0, 2):
            self.wrong(
                "mixes", f"must be two mixes, such as 'a f' 'm2 f', or none; got {len(self.mixes)}"
            )


@dataclass(frozen=True)
class EvidenceResult(Result):
    """What others have trained.

    publications: what they are. evidence: the file of own trainings. mixes: what they say of two
    mixes, None where none were asked for.
    """

    publications: list[dict[str, Any]]
    evidence: str | None
    mixes: dict[str, Any] | None = None

    def __str__(self) -> str:
        lines = [
            {
                "source": found["source"],
                "rows": found["rows"],
                **{
                    name: " to ".join(dict.fromkeys(map(tokens_text, found[name])))
                    for name in ("params", "tokens")
                },
                "spread": f"x{found['spread']:.1f}" if found["spread"] else "",
                "mixers": " ".join(found["mixers"]),
            }
            for found in self.publications
        ]
        parts = [
            table(lines, COLUMNS)
            + "\nspread: what a publication finds and others do not, over that of the middle one"
        ]
        if self.mixes is not None:
            said = [
                (
                    f"  {claim['source']}",
                    signed(claim["mean"]),
                    f"pairs: {claim['pairs']}"
                    + f"; QK-norm: {claim['qk_norm']}" * bool(claim["qk_norm"]),
                )
                for claim in self.mixes["said"]
            ]
            mean = with_interval(self.mixes["mean"], self.mixes["sd"])
            said.append(("  model", mean, "90 %, of all, for 1B parameters and 100B tokens"))
            parts.append(
                f"{self.mixes['other']!r} less {self.mixes['one']!r}, nats per token at equal size"
                " and shape; below 0 the first is better\n" + "\n".join(columns(said, (0, 1)))
            )
        return "\n\n".join(parts)


@takes(EvidenceOptions)
def evidence(options: EvidenceOptions) -> EvidenceResult:
    """List the full trainings that others have published, and say what they show of two mixes.
    Nothing is trained.

    Returns:
        An EvidenceResult: `publications` and, for two mixes, `mixes`.

    Raises:
        ConfigError: for a CSV that is wrong, with file, line, rule and value.

    Example:
        >>> import flashnas as fn
        >>> found = fn.evidence(["a f", "m2 f"])
        >>> len(found.publications), found.mixes["one"]
        (14, 'a f')
    """
    from flashnas.loss.load import loss_model
    from flashnas.loss.own import own_rows
    from flashnas.loss.publications import compare_mixes, facts_of_publications
    from flashnas.observations.read_losses import EXPERTS, read_published

    model = loss_model(options.evidence)
    rows = read_published() + ([] if options.evidence is None else own_rows(options.evidence))
    mixes = None
    if options.mixes:
        one, other = options.mixes
        mixes = compare_mixes(one, other, rows, model)
    return EvidenceResult(
        publications=facts_of_publications([*rows, *read_published(EXPERTS)], model),
        evidence=options.evidence,
        mixes=mixes,
    )
