"""What others have trained in full: publications, what they say of two mixes, and how far they disagree."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from flashnas.api.calling import Figures, takes
from flashnas.base.quantities import EVIDENCE_HELP
from flashnas.base.settings import Settings, option


@dataclass(frozen=True, kw_only=True)
class EvidenceOptions(Settings, where="evidence"):
    mixes: tuple[str, ...] = option(
        (), "two mixes to compare, without a width, such as 'a f' 'm2 f'; none: all publications are listed"
        " alone", metavar="MIX", positional=True)
    evidence: str | None = option(None, EVIDENCE_HELP, metavar="FILE")

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.mixes) not in (0, 2):
            self.wrong("mixes", f"must be two mixes, such as 'a f' 'm2 f', or none; got {len(self.mixes)}")


@takes(EvidenceOptions)
def evidence(options: EvidenceOptions) -> Figures:
    """List the full trainings that others have published, and say what they show of two mixes. Nothing is
    trained.

    Returns:
        Figures: `publications`, `disagreement`, `rows` and, for two mixes, `mixes`; `warnings`, such as that
        own trainings contradict the publications. `print` shows them.
    """
    from flashnas.evidence.load import full_loss, load, own_rows
    from flashnas.evidence.publications import contradiction, disagreement, publications, two_mixes
    from flashnas.evidence.trainings import read_published
    from flashnas.report.terminal_studies import evidence_text

    model, shipped = full_loss(options.evidence), load()
    rows = read_published() + ([] if options.evidence is None else own_rows(options.evidence))
    values: dict[str, Any] = {
        "publications": publications(rows, model), "disagreement": disagreement(rows, model),
        "evidence": options.evidence,
        "rows": {"trainings": len(rows), "shapes": len(shipped.shapes), "ffn_shares": len(shipped.ffn_shares),
                 "recall": len(shipped.recall)}}
    if options.mixes:
        one, other = options.mixes
        values["mixes"] = two_mixes(one, other, rows, model)
    words = contradiction(options.evidence) if options.evidence is not None else ""
    values["warnings"] = [words] if words else []
    return Figures(values, evidence_text, tuple(values["warnings"]))
