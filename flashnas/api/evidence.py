"""What others have trained in full: publications, what they say of two mixes, and how far they
disagree.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from flashnas.api.calling import Result, takes
from flashnas.base.settings import BARE, Settings, option
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
    left_out: str | None = option(
        None,
        "also predict each row by models that have not seen its publication; FILE: rows of a CSV"
        " with the columns of --evidence in place of the shipped ones",
        metavar="[FILE]",
    )

    conversions: bool = option(
        False, "list published conversions of pretrained models and their selectors instead"
    )

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
    left_out: the figures of models that have not seen the publication of a row: `models`; over the
    pairs that all models have: `models_common`; of choices by them: `regret`. warnings: such as
    that own trainings contradict the publications. conversions: of pretrained models, what each
    publication found of the layouts that it compared, by metric.
    """

    publications: list[dict[str, Any]]
    disagreement: dict[str, Any]
    evidence: str | None
    rows: dict[str, int]
    mixes: dict[str, Any] | None = None
    left_out: dict[str, Any] | None = field(default=None, repr=False)
    conversions: list[dict[str, Any]] | None = None
    warnings: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        values = {**super().to_dict(), **(self.left_out or {})}
        for name in ("mixes", "conversions"):
            if getattr(self, name) is None:
                del values[name]
        return values

    def __str__(self) -> str:
        from flashnas.evidence.conversions import conversions_text
        from flashnas.report.results import evidence_text

        if self.conversions is not None:
            return conversions_text(self.conversions)
        return evidence_text(self.to_dict())


@takes(EvidenceOptions)
def evidence(options: EvidenceOptions) -> EvidenceResult:
    """List the full trainings that others have published, and say what they show of two mixes.
    Nothing is trained.

    With `left_out`, four models predict the differences between the rows of each publication:
    `short` (the loss of a short training), `law` (size and shape), `evidence` (law and mix) and
    `full` (evidence and short loss). None of them has seen the publication. `"shipped"` stands for
    the rows that flashnas ships.

    Returns:
        An EvidenceResult: `publications`, `disagreement`, `rows` and, for two mixes, `mixes`; with
            `left_out`, the figures of the models.

    Raises:
        ConfigError: for a CSV that is wrong, with file, line, rule and value.
    """
    from flashnas.evidence.conversions import conversions
    from flashnas.evidence.left_out import left_out
    from flashnas.evidence.load import full_loss, load, own_rows
    from flashnas.evidence.publications import (
        compare_mixes,
        contradiction_of_own,
        disagreement,
        facts_of_publications,
    )
    from flashnas.evidence.trainings import read_published, short_trainings

    model, shipped = full_loss(options.evidence), load()
    rows = read_published() + ([] if options.evidence is None else own_rows(options.evidence))
    mixes = models = None
    if options.mixes:
        one, other = options.mixes
        mixes = compare_mixes(one, other, rows, model)
    if options.left_out is not None:
        kept_back = read_published(None if options.left_out == BARE else options.left_out)
        models = {"left_out": options.left_out, **left_out(kept_back, short_trainings(kept_back))}
    words = contradiction_of_own(options.evidence) if options.evidence is not None else ""
    return EvidenceResult(
        publications=facts_of_publications(rows, model),
        disagreement=disagreement(rows, model),
        evidence=options.evidence,
        rows={
            "trainings": len(rows),
            "shapes": len(shipped.shapes),
            "ffn_shares": len(shipped.ffn_shares),
            "recall": len(shipped.recall),
        },
        mixes=mixes,
        left_out=models,
        conversions=conversions() if options.conversions else None,
        warnings=(words,) if words else (),
    )
