"""The answer of a search that ranks by full trainings, in plain English."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import Any

from flashnas.architecture.folding import compressed
from flashnas.base.quantities import tokens_text
from flashnas.report.beside import stack_label
from flashnas.report.plot_data import front_unit
from flashnas.report.text import (
    counted,
    known,
    names_text,
    number,
    parameters,
    signed,
    with_interval,
)
from flashnas.runs.answer import Answer, KnownModel, Rival
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
LIMITS = {
    "budget": "a larger budget would allow a better network",
    "space": "the budget is not used up: no other network of the space ranks higher",
    "support": "a network is expected to be better, but no publication vouches for it",
}
UNTRAINED = (
    "nothing was trained: all of this follows from published trainings; --trials above 0 trains"
    " networks that can change it"
)


def statements(run: RecordedRun) -> list[tuple[str, str]]:
    """What the answer says: a word or two, and a sentence or two about that; empty for a run
    without one."""
    if run.answer is None:
        return []
    sentences = {
        "recommended": _recommended,
        "transformer": _transformer,
        "pure stack": _pure_stack,
        "published": _published,
        "why": _why,
        "evidence": _evidence,
        "not told apart": _tied,
        "to settle it": _experiment,
        "recall": _recall,
        "limit": _limit,
        "full training": _cost,
        "trained here": _training,
        "outside": _outside,
        "runs in": lambda run, answer: runs_in(run.front),
    }
    texts = {about: sentence(run, run.answer) for about, sentence in sentences.items()}
    return [(about, text) for about, text in texts.items() if text]


def reasons_of(answer: Answer) -> dict[str, float]:
    """The reasons by name; that of the own training only where there was one."""
    reasons: dict[str, Any] = {**answer.reasons}
    return {name: value for name, value in reasons.items() if answer.trained or name != "training"}


def next_commands(run: RecordedRun) -> list[str]:
    """The commands that train the recommended network and export it; empty without an answer. A
    network that a CPU trains in full gets the tokens that suit its size."""
    if run.answer is None:
        return []
    entry = _entry(run, run.answer.recommended)
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


# -- the network, and what it is compared with -----------------------------------------------------


def _recommended(run: RecordedRun, answer: Answer) -> str:
    entry = _entry(run, answer.recommended)
    best = next(each.best for each in answer.standings if each.hash == entry.hash)
    silence = entry.figures.get("silence") or 0.0
    charged = f"{silence:.3f} nats" if silence else "nothing"
    floored = answer.kept and answer.without_floor  # the floor for recall decides
    return (
        f"{entry.name}, {compressed(entry.notation)}; {_ms(run, entry.latency_ms)},"
        f" {parameters(entry.figures.get('params'))} parameters; the lowest expected loss after"
        f" {tokens_text(answer.train_tokens)} tokens plus what no publication vouches for"
        f" (here {charged}){', of those that keep the floor for recall' if floored else ''};"
        f" probability of being the best of all shown {chance(best)}"
    )


def _transformer(run: RecordedRun, answer: Answer) -> str:
    return _rival(run, answer, answer.transformer)


def _pure_stack(run: RecordedRun, answer: Answer) -> str:
    if answer.pure.get("hash") == answer.transformer.get("hash"):
        return "the transformer is the best one" if answer.pure else ""
    return _rival(run, answer, answer.pure)


def _rival(run: RecordedRun, answer: Answer, rival: Rival) -> str:
    if not rival:
        return ""
    name = _entry(run, answer.recommended).name
    if rival["hash"] == answer.recommended:
        return f"{name} itself, {rival['label']}"
    text = (
        f"{_named(run, rival)} at {_ms(run, rival['latency_ms'])}:"
        f" {with_interval(-rival['difference'], rival['sd'])} nats, worse than {name} with a"
        f" probability of {chance(rival['probability'])}"
    )
    if rival["difference"] >= 0:
        return text
    if rival["ms"] is None:
        return f"{text}; not even twice as wide is it as good"
    return (
        f"{text}; made wider, it is as good at {_ms(run, rival['ms'])} and"
        f" {parameters(rival['params'])} parameters"
    )


def _published(run: RecordedRun, answer: Answer) -> str:
    groups: dict[str, list[str]] = {"better than": [], "not told apart from": [], "worse than": []}
    for model in answer.known:
        time = f" ({_ms(run, model['latency_ms'])})" * (model["latency_ms"] is not None)
        groups[_verdict(model)].append(f"{model['name']}{time}")
    texts = [f"{verdict} {names_text(names)}" for verdict, names in groups.items() if names]
    name = _entry(run, answer.recommended).name
    return f"with equal vocabularies, {name} is {'; '.join(texts)}" if texts else ""


def _verdict(model: KnownModel) -> str:
    """What the recommended network is to a published model."""
    if model["probability"] <= 1 - TOLD_APART:
        return "better than"
    return "not told apart from" if model["probability"] < TOLD_APART else "worse than"


# -- what speaks for it ----------------------------------------------------------------------------


def _why(run: RecordedRun, answer: Answer) -> str:
    reasons = reasons_of(answer)
    parts = [f"{REASONS[name]} {signed(reasons[name])}" for name in REASONS if name in reasons]
    name = _entry(run, answer.recommended).name
    text = f"{', '.join(parts)} nats to the best pure stack; below 0 speaks for {name}"
    return text if parts else ""


def _evidence(run: RecordedRun, answer: Answer) -> str:
    name, support = _entry(run, answer.recommended).name, answer.support
    if support is not None:
        return (
            f"in {support['better']} of {counted(support['pairs'], 'published pair')} of trainings"
            f" the mix of {name} is better than that of the best pure stack (arXiv"
            f" {', '.join(support['publications'])})"
        )
    compared = signed(answer.reasons.get("mix", 0.0)) != signed(0.0)
    return f"no publication compares the mix of {name} with the best pure stack's" * compared


def _tied(run: RecordedRun, answer: Answer) -> str:
    name, floor = _entry(run, answer.recommended).name, answer.min_recall
    if len(run.front) == 1:
        return "the front has no other network"
    tied = [_entry(run, key) for key in answer.tied]
    better = [
        _entry(run, each.hash) for each in answer.standings if each.difference < 0 and not each.tied
    ]
    texts = [
        f"none: {name} is better than each other network of the front with a probability of {TOLD_APART} or more"
    ]
    if tied:
        each = " for each" * (len(tied) > 1)
        texts = [
            f"{_names(tied)}: the probability that {name} is better is below {TOLD_APART}{each}"
        ]
    elif better:
        texts = ["none"]
    cheapest = next(each for each in answer.standings if each.hash == answer.cheapest)
    fastest, own = (_entry(run, key).latency_ms for key in (answer.cheapest, answer.recommended))
    saved = f"{1 - (fastest or 0.0) / (own or 1.0):.0%}"
    if cheapest.hash != answer.recommended and saved != "0%":
        texts.append(
            f"{_entry(run, cheapest.hash).name} is {saved} faster ({_ms(run, fastest)}), at"
            f" {with_interval(cheapest.difference, cheapest.sd)} nats"
        )
    below = [
        entry
        for entry in [*tied, *better]
        if known(recall := entry.figures.get("expected_recall")) and recall < floor
    ]
    if below:
        texts.append(f"{_names(below)} {_do(below)} not keep the floor for recall")
    return "; ".join(texts)


def _experiment(run: RecordedRun, answer: Answer) -> str:
    if not (plan := answer.experiment):
        return ""
    return (
        f"train {_entry(run, answer.recommended).name} and {_named(run, plan)} on"
        f" {tokens_text(plan['tokens'])} tokens each, {number(plan['h100_hours'], 3)} H100-hours in"
        f" all; with a probability of {chance(plan['probability'])} they differ by more than the noise"
    )


# -- what it keeps, and what it costs --------------------------------------------------------------


def _recall(run: RecordedRun, answer: Answer) -> str:
    figures, floor = _entry(run, answer.recommended).figures, f"{answer.min_recall:.2f}"
    recall, sd = figures.get("expected_recall"), figures.get("expected_recall_sd")
    text = (
        f"{with_interval(recall, sd or 0.0, 2)} of full marks against a transformer"
        if known(recall)
        else "not known"
    )
    text += f"; keeps the floor of {floor} with a probability of {chance(answer.keeps)}"
    if not answer.kept:
        text += "; no network of the front is expected to keep it"
    if not (other := answer.without_floor):
        return f"{text}; without the floor the answer is the same" if answer.kept else text
    return (
        f"{text}; without the floor it would be {_named(run, other)}: recall"
        f" {signed(other['expected_recall'], 2)},"
        f" {with_interval(other['difference'], other['sd'])} nats"
    )


def _limit(run: RecordedRun, answer: Answer) -> str:
    entry = _entry(run, answer.recommended)
    lower, upper = (entry.figures.get(name) for name in ("lower_ms", "upper_ms"))
    texts = [LIMITS.get(answer.limit, "")]
    if run.budget_ms is not None:
        used = f"{_ms(run, entry.latency_ms)} of {_ms(run, run.budget_ms)}"
        bounds = f" (bounds {_ms(run, lower)} to {_ms(run, upper)})"
        texts = [used + bounds * (known(lower) and known(upper)), *texts]
    return "; ".join(filter(None, texts))


def _cost(run: RecordedRun, answer: Answer) -> str:
    text = ""
    if (cost := answer.training) is not None:
        text = (
            f"{tokens_text(cost['tokens'])} tokens, {cost['flops']:.1e} FLOPs,"
            f" {number(cost['h100_hours'], 3)} H100-hours at a utilisation of"
            f" {cost['utilisation']:.0%}"
        )
    edge = "publications have fewer or more tokens: the differences are those at their edge"
    return "; ".join(filter(None, (text, edge * answer.extrapolated)))


def _training(run: RecordedRun, answer: Answer) -> str:
    if not answer.trained:
        return UNTRAINED
    text = "the short trainings left the answer as it was before them"
    if not answer.same:
        names = [f"{entry.name}, " for entry in run.front if entry.notation == answer.before]
        before = (
            f"published trainings alone recommend {''.join(names[:1])}{compressed(answer.before)}"
        )
        trained = (run.trained["notation"] == answer.before).any()
        text = (
            f"the short trainings changed the answer: {before}"
            if trained
            else f"{before}, which was not trained"
        )
    if not (other := answer.to_change):
        return f"{text}; no other one alone is likely to change it"
    lower = f" if it ends {other['nats']:.3f} nats below what is expected" * (other["nats"] > 0)
    return (
        f"{text}; a short training of {compressed(other['notation'])} would change it{lower},"
        f" probability {chance(other['probability'])}"
    )


def _outside(run: RecordedRun, answer: Answer) -> str:
    words = {str(row.hash): str(row.outside) for row in rows(run.trials) if row.outside}
    entry, own = _entry(run, answer.recommended), words.get(answer.recommended)
    others = [each for each in run.front if words.get(each.hash) and each is not entry]
    if own:
        text = f"no two publications have trained this of {entry.name}: {own}"
        return (
            f"{text}; {_names(others)} also lie{'s' * (len(others) == 1)} outside"
            if others
            else text
        )
    text = f"{entry.name} lies within what publications have trained"
    return f"{text}; {_names(others)} {_do(others)} not" if others else text


# -- names and numbers -----------------------------------------------------------------------------


def _entry(run: RecordedRun, key: str) -> FrontEntry:
    return run.front[run.finalists[1][key]]


def _named(run: RecordedRun, network: Any) -> str:
    """The name of a network on the front, else its notation."""
    place = run.finalists[1].get(network["hash"])
    return stack_label(network["notation"]) if place is None else run.front[place].name


def chance(probability: float) -> str:
    """`0.82`; no probability is 0 or 1."""
    return f"{min(max(probability, 0.01), 0.99):.2f}"


def _names(entries: Sequence[FrontEntry]) -> str:
    return names_text([entry.name for entry in entries])


def _do(entries: Sequence[FrontEntry]) -> str:
    return "does" if len(entries) == 1 else "do"


def _ms(run: RecordedRun, latency_ms: float | None) -> str:
    factor, unit = front_unit(run)
    return number(None if latency_ms is None else latency_ms * factor, 4, unit)
