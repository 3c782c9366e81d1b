"""What others have trained in full: publications, what they say of two mixes, and how far they
disagree.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from flashnas.api.calling import Result, takes
from flashnas.base.settings import Settings, option
from flashnas.base.text import EVIDENCE_HELP


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

    publications, disagreement, rows: what they are, how far they differ, and how many rows of each
    kind there are. evidence: the file of own trainings. mixes: what they say of two mixes.
    warnings: such as that own trainings contradict the publications.
    """

    publications: list[dict[str, Any]]
    disagreement: dict[str, Any]
    evidence: str | None
    rows: dict[str, int]
    mixes: dict[str, Any] | None = None
    warnings: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        values = super().to_dict()
        if self.mixes is None:
            del values["mixes"]
        return values

    def __str__(self) -> str:
        from flashnas.reporting.results import evidence_text

        return evidence_text(self.to_dict())


@takes(EvidenceOptions)
def evidence(options: EvidenceOptions) -> EvidenceResult:
    """List the full trainings that others have published, and say what they show of two mixes.
    Nothing is trained.

    Returns:
        An EvidenceResult: `publications`, `disagreement`, `rows` and, for two mixes, `mixes`.

    Raises:
        ConfigError: for a CSV that is wrong, with file, line, rule and value.

    Example:
        >>> import flashnas as fn
        >>> found = fn.evidence(["a f", "m2 f"])
        >>> found.rows["trainings"] >= 189, found.mixes["one"]
        (True, 'a f')
    """
    from flashnas.loss.load import load_evidence, loss_model
    from flashnas.loss.own import own_rows
    from flashnas.loss.publications import (
        compare_mixes,
        contradiction_of_own,
        disagreement,
        facts_of_publications,
    )
    from flashnas.observations.read_losses import read_experts, read_published

    model, shipped = loss_model(options.evidence), load_evidence()
    rows = read_published() + ([] if options.evidence is None else own_rows(options.evidence))
    mixes = None
    if options.mixes:
        one, other = options.mixes
        mixes = compare_mixes(one, other, rows, model)
    words = contradiction_of_own(options.evidence) if options.evidence is not None else ""
    return EvidenceResult(
        publications=facts_of_publications([*rows, *read_experts()], model),
        disagreement=disagreement(rows, model),
        evidence=options.evidence,
        rows={
            "trainings": len(rows),
            "shapes": len(shipped.shapes),
            "ffn_shares": len(shipped.ffn_shares),
            "recall": len(shipped.recall),
            "experts": len(shipped.experts),
        },
        mixes=mixes,
        warnings=(words,) if words else (),
    )
