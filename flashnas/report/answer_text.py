"""The answer of a search that ranks by full trainings, in plain English."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import Any

from flashnas.architecture.folding import compressed
from flashnas.base.quantities import tokens_text
from flashnas.report.plot_data import front_unit
from flashnas.report.text import known, names_text, number
from flashnas.runs.answer import Answer
from flashnas.runs.front import FrontEntry
from flashnas.runs.layout import FRONT
from flashnas.runs.run import RecordedRun, rows
from flashnas.runs.trained import TRAINED
from flashnas.study.answer import TOLD_APART

RECOMMENDED, TIED, ABOVE = "*", "~", "!"  # marks in the table of the terminal
LARGE_TOKENS = 1e9  # of a planned training, from which on the command names a GPU
SMALL_PARAMS = 50e6  # of a network that a CPU trains in full
TOKENS_EACH = 20  # for each parameter: about the best use of FLOPs, arXiv 2203.15556
REASONS = {
    "size": "size",
    "shape": "width against depth",
    "mix": "mix of operators",
    "training": "own short training",
}


def statements(run: RecordedRun) -> list[tuple[str, str]]:
    """What the answer says, a word or two about what and a sentence or two; empty for a run without
    one.
    """
    if run.answer is None:
        return []
    words = _Words(run, run.answer)
    said = {
        "recommended": words.recommended,
        "not told apart": words.tied,
        "runs in": lambda: runs_in(run.front),
        "pure stacks": words.pure,
        "why": words.why,
        "recall": words.recall,
        "budget": words.budget,
        "training": words.training,
        "to change it": words.to_change,
        "outside": words.outside,
        "extrapolated": words.extrapolated,
    }
    return [(about, text) for about, sentence in said.items() if (text := sentence())]


def reasons_of(answer: Answer) -> dict[str, float]:
    """The reasons by name; that of the own training only where there was one."""
    reasons: dict[str, Any] = {**answer.reasons}
    return {name: value for name, value in reasons.items() if answer.trained or name != "training"}


def next_commands(run: RecordedRun) -> list[str]:
    """The commands that train the recommended network and export it; empty without an answer. A
    network that a CPU trains in full gets the tokens that suit its size."""
    if run.answer is None:
        return []
    entry = run.front[run.finalists[1][run.answer.recommended]]
    tokens, params = run.answer.train_tokens, entry.figures.get("params") or SMALL_PARAMS
    if params < SMALL_PARAMS:
        tokens = min(tokens, float(f"{TOKENS_EACH * params:.1g}"))
    gpu = " --device cuda" if tokens >= LARGE_TOKENS else ""
    to = next(iter((entry.runs_in or {}).values()), "hf")
    path = shlex.quote(str(run.path / FRONT / entry.path.name))
    out = shlex.quote(str(run.path / TRAINED / entry.path.stem))
    return [
        f"flashnas train {path} --data YOUR_TEXT --tokens {tokens:.0f}{gpu} --out {out}",
        f"flashnas export {out} --to {to} --out exported",
    ]


def runs_in(front: Sequence[FrontEntry]) -> str:
    """The programs that each finalist runs in, those with equal ones together; "" where none was
    recorded.
    """
    groups: dict[str, list[str]] = {}
    for entry in front:
        if entry.runs_in is not None:
            text = ", ".join(
                f"{program} (export --to {to})" for program, to in entry.runs_in.items()
            )
            groups.setdefault(
                text or "transformers with flashnas installed (export --to hf)", []
            ).append(entry.name)
    return "; ".join(f"{names_text(names)}: {text}" for text, names in groups.items())


def signed(value: float, digits: int = 3) -> str:
    """`+0.020`; `0.000` without a sign."""
    text = f"{value:+.{digits}f}"
    return text[1:] if float(text) == 0 else text


def with_sd(value: float, sd: float, digits: int = 3) -> str:
    """`+0.020 ± 0.053`."""
    return f"{signed(value, digits)} ± {sd:.{digits}f}"


class _Words:
    """The sentences of one answer; empty for what it does not say."""

    def __init__(self, run: RecordedRun, answer: Answer) -> None:
        self.run, self.answer = run, answer
        self.factor, self.unit = front_unit(run)
        self.places = run.finalists[1]
        self.entry = run.front[self.places[answer.recommended]]
        self.standings = {standing.hash: standing for standing in answer.standings}

    def recommended(self) -> str:
        best = self.standings[self.answer.recommended].best
        floored = self.answer.kept and self.answer.without_floor  # the floor for recall decides
        of_those = ", of those that keep the floor for recall" if floored else ""
        return (
            f"{self.entry.name} at {self._ms(self.entry.latency_ms)},"
            f" {compressed(self.entry.notation)};"
            f" the lowest expected loss after {tokens_text(self.answer.train_tokens)} tokens with"
            " one"
            f" standard deviation added{of_those}; probability of being the best of all shown"
            f" {best:.2f}"
        )

    def tied(self) -> str:
        tied, name = [self._entry(key) for key in self.answer.tied], self.entry.name
        if len(self.run.front) == 1:
            return "none: the front has no other network"
        better = [
            self._entry(standing.hash).name
            for standing in self.answer.standings
            if standing.difference < 0 and not standing.tied
        ]
        lost = (
            ""
            if not better
            else (
                f"{names_text(better)} {'are' if len(better) > 1 else 'is'} expected to be better,"
                " but"
                f" {_do(better)} not keep the recall"
            )
        )
        if not tied:
            return (
                f"none: {lost}"
                if lost
                else (
                    f"none: the probability that {name} is better is {TOLD_APART} or more for each"
                    " network"
                )
            )
        text = (
            f"{names_text([finalist.name for finalist in tied])}: the probability that {name} is"
            " better"
            f" is below {TOLD_APART}{' for each' * (len(tied) > 1)}"
        )
        cheapest = self._entry(self.answer.cheapest)
        faster = [
            finalist.name
            for finalist in tied
            if self._share(finalist) < 1
            and known(recall := finalist.figures.get("expected_recall"))
            and recall < self.answer.min_recall
        ]
        saved = f"{1 - self._share(cheapest):.0%}"
        if cheapest.hash != self.answer.recommended and saved != "0%":
            standing = self.standings[cheapest.hash]
            fastest = f"the fastest of them is {cheapest.name}" if len(tied) > 1 else "it is faster"
            text += (
                f"; {fastest}, {self._ms(cheapest.latency_ms)} ({saved} less), at"
                f" {with_sd(standing.difference, standing.sd)} nats"
            )
        elif faster:
            text += f"; {names_text(faster)} would be faster, but {_do(faster)} not keep the recall"
        else:
            text += "; none of these is faster"
        return f"{text}; {lost}" if lost else text

    def pure(self) -> str:
        pure, name = self.answer.pure, self.entry.name
        if not pure:
            return ""
        if pure["hash"] == self.answer.recommended:
            return f"{name} is itself the best pure stack, {pure['label']}"
        at = self.places.get(pure["hash"])
        stack = (
            f"the best pure stack, {pure['label']}"
            f" ({'' if at is None else f'{self.run.front[at].name}, '}{self._ms(pure['latency_ms'])})"
        )
        gap = f"{signed(pure['difference'])} ± {pure['sd']:.3f} nats"
        odds = pure["probability"]
        if odds >= TOLD_APART:
            return f"{name} is ahead of {stack}: {gap}, with a probability of {odds:.2f}"
        if odds <= 1 - TOLD_APART:
            return f"{name} is behind {stack}: {gap}, probability of being better {odds:.2f}"
        return f"{name} cannot be told from {stack}: {gap}, probability of being better {odds:.2f}"

    def why(self) -> str:
        if not (reasons := reasons_of(self.answer)):
            return ""
        parts = ", ".join(
            f"{words} {signed(reasons[name])}" for name, words in REASONS.items() if name in reasons
        )
        return f"{parts} nats to that stack; below 0 speaks for {self.entry.name}"

    def recall(self) -> str:
        figures, floor = self.entry.figures, self.answer.min_recall
        value = (
            f"{with_sd(figures['expected_recall'] or 0.0, figures.get('expected_recall_sd') or 0.0, 2)}"
            " of full marks against a transformer"
            if known(figures.get("expected_recall"))
            else "not known"
        )
        kept = (
            f"which keeps the floor of {floor:.2f}"
            if self.answer.kept
            else (f"no network of the front keeps the floor of {floor:.2f}")
        )
        other = self.answer.without_floor
        if not other:
            return (
                f"{value}, {kept}; the answer is the same without the floor"
                if self.answer.kept
                else (f"{value}; {kept}")
            )
        at = self.places.get(other["hash"])
        name = compressed(other["notation"]) if at is None else self.run.front[at].name
        buys = (
            "that buys"
            if other["difference"] < 0
            else "that buys nothing on average, but is less uncertain:"
        )
        return (
            f"{value}, {kept}; without the floor {name} would be recommended, recall"
            f" {signed(other['expected_recall'], 2)}; {buys}"
            f" {with_sd(other['difference'], other['sd'])}"
            f" nats"
        )

    def budget(self) -> str:
        names = [self._entry(key).name for key in self.answer.above_budget]
        if not names:
            return ""
        limit = "" if self.run.budget_ms is None else f" of {self._ms(self.run.budget_ms)}"
        return f"the latency of {names_text(names)} may exceed the budget{limit}: its upper bound is above"

    def training(self) -> str:
        if not self.answer.trained:
            return (
                "nothing was trained: all of this follows from what others trained in full; a"
                " search with"
                " --trials above 0 trains what can still change it"
            )
        if self.answer.same:
            return "the short trainings left the answer as it was before them"
        name = next(
            (
                f"{finalist.name}, "
                for finalist in self.run.front
                if finalist.notation == self.answer.before
            ),
            "",
        )
        before = f"published trainings alone recommend {name}{compressed(self.answer.before)}"
        trained = (self.run.trained["notation"] == self.answer.before).any()
        return (
            f"the short trainings changed the answer: {before}"
            if trained
            else f"{before}, which was not trained"
        )

    def to_change(self) -> str:
        if not self.answer.trained:
            return ""
        if not (other := self.answer.to_change):
            return "no single short training of what is not trained yet"
        name = compressed(other["notation"])
        if other["nats"] <= 0:
            return (
                f"a short training of {name}, which is expected to be as good and was not trained:"
                " the"
                f" answer changes with a probability of {other['probability']:.2f}"
            )
        return (
            f"a short training of {name} that ends {other['nats']:.3f} nats lower than expected"
            " (assumed"
            f" standard deviation: {other['usual_nats']:.2f}); probability"
            f" {other['probability']:.2f}"
        )

    def outside(self) -> str:
        words = {str(row.hash): str(row.outside) for row in rows(self.run.trials) if row.outside}
        own = words.get(self.answer.recommended)
        others = [
            entry.name
            for entry in self.run.front
            if words.get(entry.hash) and entry.hash != self.answer.recommended
        ]
        text = (
            f"of {self.entry.name}, publications do not vouch for this: {own}"
            if own
            else f"{self.entry.name} lies within what publications have trained"
        )
        if not others:
            return text
        if not own:
            return f"{text}; {names_text(others)} {_do(others)} not"
        return f"{text}; {names_text(others)} also lie{'s' * (len(others) == 1)} outside"

    def extrapolated(self) -> str:
        return self.answer.extrapolated * (
            f"{tokens_text(self.answer.train_tokens)} training tokens are fewer or more than"
            " publications"
            " have: the differences are read off their edge"
        )

    def _entry(self, key: str) -> FrontEntry:
        return self.run.front[self.places[key]]

    def _share(self, entry: FrontEntry) -> float:
        return (entry.latency_ms or 0.0) / (self.entry.latency_ms or 1.0)

    def _ms(self, latency_ms: float | None) -> str:
        return number(None if latency_ms is None else latency_ms * self.factor, 4, self.unit)


def _do(names: Sequence[str]) -> str:
    return "does" if len(names) == 1 else "do"
