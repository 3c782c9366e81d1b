"""What a conversion found: its figures, and as text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from flashnas.architecture import Architecture
from flashnas.base.text import INTERVAL_90, columns
from flashnas.convert.choices import KEPT, Layout, converted, key_of, kind_of
from flashnas.convert.config import ConvertConfig
from flashnas.convert.measure import LayoutScore
from flashnas.convert.select import LayoutPrediction, SetLaw, SingleScores
from flashnas.convert.times import RequestTimes

MODELS = "models"  # folder: weights of the layout of each budget


@dataclass(frozen=True, eq=False)
class Finalist:
    """A layout that was measured on fresh text. save_ms: of the budget that it answers; None: it is
    there to check the predictions. recall_floor: share of the recall that it was to keep."""

    layout: Layout
    ms: float
    save_ms: float | None
    recall_floor: float
    predicted: LayoutPrediction
    measured: LayoutScore

    @property
    def key(self) -> str:
        return key_of(self.layout)

    @property
    def kl(self) -> float:
        return float(np.mean(self.measured.kl))

    @property
    def kl_half(self) -> float:
        """Half of the 90 % interval of the mean over documents."""
        return INTERVAL_90 * _error(self.measured.kl)

    @property
    def recall(self) -> float:
        return float(np.mean(self.measured.recalled)) if self.measured.recalled else 1.0

    @property
    def inside(self) -> bool:
        """Whether the measured KL lies in the predicted interval."""
        return self.predicted.kl_low <= self.kl <= self.predicted.kl_high


def _error(values: Sequence[float]) -> float:
    return float(np.std(values, ddof=1) / np.sqrt(len(values)))


@dataclass(frozen=True, eq=False)
class ConversionResult:
    """All that a conversion says. probes: that the teacher does, and all. verdicts, compared: by
    the key of a finalist that answers a budget; compared: evenly spaced, then at random."""

    config: ConvertConfig
    teacher: Architecture
    tokenizer: Tokenizer | None
    times: RequestTimes
    loss: float
    probes: tuple[int, int]
    singles: SingleScores
    law: SetLaw
    finalists: Sequence[Finalist]
    verdicts: Mapping[str, list[dict[str, Any]]]
    compared: Mapping[str, Sequence[LayoutScore]]

    @property
    def answers(self) -> list[Finalist]:
        """One for each budget, fastest first."""
        return [finalist for finalist in self.finalists if finalist.save_ms is not None]

    def to_dict(self) -> dict[str, Any]:
        full_ms = self.times.milliseconds(())
        return {
            "run": str(self.config.out),
            "model": self.config.model,
            "notation": self.teacher.notation,
            "times": self.times.source,
            "model_ms": full_ms,
            "loss": self.loss,
            "probes_done": self.probes[0],
            "probes": self.probes[1],
            "agreement_of_halves": self.singles.agreement,
            "law": asdict(self.law),
            "singles": [
                {
                    "layer": choice.layer,
                    "kind": kind_of(self.teacher, choice),
                    "saved_ms": choice.saved_ms,
                    "kl": float(np.mean(kl)),
                    "kl_error": _error(list(kl)),
                    "recall": float(np.mean(recalled)) if len(recalled) else 1.0,
                }
                for choice, kl, recalled in zip(
                    self.singles.choices, self.singles.kl, self.singles.recalled, strict=True
                )
            ],
            "finalists": [
                {
                    "layout": finalist.key,
                    "notation": converted(self.teacher, finalist.layout).notation,
                    "latency_ms": finalist.ms,
                    "share": finalist.ms / full_ms,
                    "answers_a_budget": finalist.save_ms is not None,
                    "predicted": asdict(finalist.predicted),
                    "kl": finalist.kl,
                    "kl_half": finalist.kl_half,
                    "loss": float(np.mean(finalist.measured.loss)),
                    "recall": finalist.recall,
                    "inside": finalist.inside,
                }
                for finalist in self.finalists
            ],
            "answers": [self._answer(finalist) for finalist in self.answers],
        }

    def _answer(self, finalist: Finalist) -> dict[str, Any]:
        even, *drawn = self.compared[finalist.key]
        return {
            "budget_ms": self.times.milliseconds(()) - (finalist.save_ms or 0.0),
            "latency_ms": finalist.ms,
            "layout": finalist.key,
            "recall_floor": finalist.recall_floor,
            "weights": str(self.config.out / MODELS / self.name_of(finalist)),
            "layers": self.verdicts[finalist.key],
            "evenly_spaced": _compared(finalist, even),
            "at_random": [_compared(finalist, other) for other in drawn],
        }

    def name_of(self, finalist: Finalist) -> str:
        return f"{finalist.ms:.0f}ms"


def _compared(finalist: Finalist, other: LayoutScore) -> dict[str, float]:
    """Another placement: its KL, and how much more that is than the finalist's on the same
    documents, with half of its 90 % interval."""
    more = np.array(other.kl) - np.array(finalist.measured.kl)
    return {
        "kl": float(np.mean(other.kl)),
        "more": float(more.mean()),
        "more_half": INTERVAL_90 * _error(more.tolist()),
        "recall": float(np.mean(other.recalled)) if other.recalled else 1.0,
    }


# -- text ------------------------------------------------------------------------------------------


def conversion_text(values: dict[str, Any]) -> str:
    return "\n".join(_lines(values))


def _lines(values: dict[str, Any]) -> Iterator[str]:
    full_ms, law = values["model_ms"], values["law"]
    yield (
        f"{values['model']}: {full_ms:,.0f} ms ({values['times']}), {values['loss']:.3f}"
        f" nats/token, {values['probes_done']} of {values['probes']} recall probes"
    )
    yield (
        f"single changes: rank correlation of two halves of the documents"
        f" {values['agreement_of_halves']:.2f}; a set of changes costs"
        f" {np.exp(law['offset']):.2f} x sum^{law['power']:.2f}, with an error of"
        f" {100 * law['kl_sd']:.0f} % on sets that the law has not seen ({law['sets']} sets)"
    )
    yield ""
    yield "finalists on fresh text; KL to the model in nats/token, recall as a share of its own:"
    lines = [["share", "latency", "KL predicted", "KL measured", "inside", "recall", "layout"]]
    for entry in values["finalists"]:
        predicted = entry["predicted"]
        lines.append(
            [
                f"{100 * entry['share']:.1f} %{'*' if entry['answers_a_budget'] else ' '}",
                f"{entry['latency_ms']:,.0f} ms",
                f"{predicted['kl']:.3f} ({predicted['kl_low']:.3f}..{predicted['kl_high']:.3f})",
                f"{entry['kl']:.3f} ± {entry['kl_half']:.3f}",
                "yes" if entry["inside"] else "no",
                f"{100 * entry['recall']:.0f} %",
                entry["layout"],
            ]
        )
    yield from columns(lines)
    inside = sum(entry["inside"] for entry in values["finalists"])
    yield f"{inside} of {len(values['finalists'])} lie in the predicted 90 % interval; *: a budget"
    for answer in values["answers"]:
        yield ""
        yield from _answer_lines(answer)


def _answer_lines(answer: dict[str, Any]) -> Iterator[str]:
    yield (
        f"within {answer['budget_ms']:,.0f} ms: {answer['layout']} ({answer['latency_ms']:,.0f} ms);"
        f" chosen to keep {100 * answer['recall_floor']:.0f} % of the recall"
    )
    sure = [
        f"{entry['layer']}:{entry['chosen']}"
        for entry in answer["layers"]
        if entry["decided"] and entry["chosen"] != KEPT
    ]
    yield f"  decided: {', '.join(sure) or 'nothing'}"
    open_ = [entry for entry in answer["layers"] if not entry["decided"]]
    shares = "; ".join(
        f"layer {entry['layer']}: "
        + ", ".join(f"{name} {100 * share:.0f} %" for name, share in entry["shares"].items())
        for entry in open_
    )
    yield f"  undecided: {shares or 'nothing'}"
    for name, others in (
        ("evenly spaced", [answer["evenly_spaced"]]),
        ("the best at random", answer["at_random"]),
    ):
        if others:
            other = min(others, key=lambda entry: entry["kl"])
            yield (
                f"  {name}: {other['more']:+.3f} ± {other['more_half']:.3f} nats/token,"
                f" recall {100 * other['recall']:.0f} %"
            )
    yield f"  weights {answer['weights']}"
