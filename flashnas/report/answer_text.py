"""The answer of a search that ranks by full trainings, in plain English."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from flashnas.architecture.folding import compressed
from flashnas.base.text import (
    counted,
    known,
    names_text,
    number,
    parameters,
    signed,
    tokens_text,
    with_interval,
)
from flashnas.report.beside import stack_label
from flashnas.report.next_steps import runs_in
from flashnas.report.plot_data import front_unit
from flashnas.runs.answer import Answer, Rival
from flashnas.runs.run import RecordedRun, rows
from flashnas.search.trial import Trial
from flashnas.study.answer import DISTINCT

RECOMMENDED, TIED, ABOVE = "*", "~", "!"  # marks in the table of the terminal
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
EXTRAPOLATED = "publications have fewer or more tokens: the differences are those at their edge"
LEAST, LEAST_SAVED = 0.0005, 0.005  # nats, and share of the latency, that are said
UNTRAINED = (
    "nothing was trained: all of this follows from published trainings; a short training adds to"
    " them for operators that they do not have"
)


def statements(run: RecordedRun) -> list[tuple[str, str]]:
    """What the answer says: a word or two, and a sentence or two about that; empty for a run
    without one."""
    if run.answer is None:
        return []
    sentences = {
        "recommended": _recommended,
        "transformer": lambda run, answer: _rival(run, answer, answer.transformer),
        "pure stack": _pure_stack,
        "published": _published,
        "why": _why,
        "evidence": _evidence,
        "calibration": _calibration,
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


# -- the network, and what it is compared with -----------------------------------------------------


def _recommended(run: RecordedRun, answer: Answer) -> str:
    entry = _chosen(run, answer)
    best = next(each.best for each in answer.standings if each.hash == entry.hash)
    silence = entry.figures.get("silence")
    floored = answer.kept and answer.without_floor  # the floor for recall decides
    return (
        f"{entry.name}, {compressed(entry.notation)}; {_ms(run, entry.latency_ms)},"
        f" {parameters(entry.figures.get('params'))} parameters; the lowest expected loss after"
        f" {tokens_text(answer.train_tokens)} tokens plus what no publication vouches for"
        f" (here {f'{silence:.3f} nats' if silence else 'nothing'})"
        f"{', of those that keep the floor for recall' if floored else ''};"
        f" probability of being the best of the front and the pure stacks {_chance(best)}"
    )


def _pure_stack(run: RecordedRun, answer: Answer) -> str:
    if answer.pure == answer.transformer:
        return "the transformer is the best one" if answer.pure else ""
    return _rival(run, answer, answer.pure)


def _rival(run: RecordedRun, answer: Answer, rival: Rival) -> str:
    if not rival:
        return ""
    if rival["hash"] == answer.recommended:
        return f"{_chosen(run, answer).name} itself, {rival['label']}"
    text = (
        f"{_named(run, rival)} at {_ms(run, rival['latency_ms'])}:"
        f" {with_interval(-rival['difference'], rival['sd'])} nats, worse than"
        f" {_chosen(run, answer).name} with a probability of {_chance(rival['probability'])}"
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
    chosen = _chosen(run, answer).name
    verdicts = (f"expected to be worse than {chosen}", f"not told apart from {chosen}", "better")
    groups: dict[str, list[str]] = {verdict: [] for verdict in verdicts}
    for model in answer.published:
        odds, time = model["probability"], model["latency_ms"]
        verdict = verdicts[(odds > 1 - DISTINCT) + (odds >= DISTINCT)]
        groups[verdict].append(model["name"] + f" ({_ms(run, time)})" * (time is not None))
    texts = [f"{verdict}: {names_text(names)}" for verdict, names in groups.items() if names]
    return _joined(*texts, "all with the vocabulary of the space" * bool(texts))


# -- what speaks for it ----------------------------------------------------------------------------


def _why(run: RecordedRun, answer: Answer) -> str:
    parts = [f"{REASONS[name]} {signed(value)}" for name, value in reasons_of(answer).items()]
    return (
        f"{', '.join(parts)} nats to the best pure stack; below 0 speaks for"
        f" {_chosen(run, answer).name}"
    ) * bool(parts)


def _evidence(run: RecordedRun, answer: Answer) -> str:
    if (support := answer.support) is not None:
        return (
            f"in {support['better']} of {counted(support['pairs'], 'published pair')} of trainings"
            f" the mix of {_chosen(run, answer).name} is better than that of the best pure stack"
            f" (arXiv {', '.join(support['publications'])})"
        )
    compared = abs(answer.reasons.get("mix", 0.0)) > LEAST
    return "no publication compares its mix with that of the best pure stack" * compared


def _tied(run: RecordedRun, answer: Answer) -> str:
    chosen, tied = _chosen(run, answer), [_entry(run, key) for key in answer.tied]
    text = "none on the front"
    if tied:
        text = f"{_names(tied)}: the probability that {chosen.name} is better is below {DISTINCT}"
    standing = next(each for each in answer.standings if each.hash == answer.cheapest)
    cheapest = _entry(run, answer.cheapest)
    saved = 1 - (cheapest.latency_ms or 0.0) / (chosen.latency_ms or 1.0)
    faster = (
        f"{cheapest.name} is {saved:.0%} faster ({_ms(run, cheapest.latency_ms)}), at"
        f" {with_interval(standing.difference, standing.sd)} nats"
    )
    below = [
        entry
        for each in answer.standings
        if (each.tied or each.difference < 0)
        and ((entry := _entry(run, each.hash)).figures.get("expected_recall") or 0.0)
        < answer.min_recall
    ]
    return _joined(
        text,
        faster * (saved > LEAST_SAVED),
        f"below the floor for recall: {_names(below)}" * bool(below and answer.kept),
    )


def _experiment(run: RecordedRun, answer: Answer) -> str:
    if not (plan := answer.experiment):
        return ""
    return (
        f"train {_chosen(run, answer).name} and {_named(run, plan)} on"
        f" {tokens_text(plan['tokens'])} tokens each, {number(plan['h100_hours'], 3)} H100-hours in"
        f" all; with a probability of {_chance(plan['probability'])} they differ by more than the"
        " noise"
    )


# -- what it keeps, and what it costs --------------------------------------------------------------


def _recall(run: RecordedRun, answer: Answer) -> str:
    figures, other = _chosen(run, answer).figures, answer.without_floor
    recall = figures.get("expected_recall") or 0.0
    sd = figures.get("expected_recall_sd") or 0.0
    without = "without the floor the answer is the same" * answer.kept
    if other:
        without = (
            f"without the floor it would be {_named(run, other)}: recall"
            f" {signed(other['expected_recall'], 2)},"
            f" {with_interval(other['difference'], other['sd'])} nats"
        )
    return _joined(
        f"{with_interval(recall, sd, 2)} of full marks against a transformer",
        f"keeps the floor of {answer.min_recall:.2f} with a probability of {_chance(answer.keeps)}",
        "no network of the front is expected to keep it" * (not answer.kept),
        without,
    )


def _calibration(run: RecordedRun, answer: Answer) -> str:
    if not (other := answer.other_calibration):
        return ""
    entry, name = _chosen(run, answer), other["calibration"]
    there = f"{entry.name} takes {_ms(run, other['chosen_ms'])} there"
    if not other["notation"]:
        return f"under {name} no network meets the budget; {there}"
    same = other["notation"] == entry.notation
    what = "the same network" if same else stack_label(other["notation"])
    return f"under {name} {what} at {_ms(run, other['latency_ms'])} would be recommended; {there}"


def _limit(run: RecordedRun, answer: Answer) -> str:
    entry = _chosen(run, answer)
    upper = entry.figures.get("upper_ms")
    used = f"{_ms(run, entry.latency_ms)} of {_ms(run, run.budget_ms)}"
    if known(upper):
        used += f" (90 %: {_ms(run, entry.figures.get('lower_ms'))} to {_ms(run, upper)})"
    return _joined(used * (run.budget_ms is not None), LIMITS.get(answer.limit, ""))


def _cost(run: RecordedRun, answer: Answer) -> str:
    text = ""
    if (cost := answer.training) is not None:
        text = (
            f"{tokens_text(cost['tokens'])} tokens, {cost['flops']:.1e} FLOPs,"
            f" {number(cost['h100_hours'], 3)} H100-hours at a utilisation of"
            f" {cost['utilisation']:.0%}"
        )
    return _joined(text, EXTRAPOLATED * answer.extrapolated)


def _training(run: RecordedRun, answer: Answer) -> str:
    if not answer.trained:
        return UNTRAINED
    text = "the short trainings left the answer as it was before them"
    if not answer.same:
        names = [entry.name for entry in run.front if entry.notation == answer.before]
        text = f"published trainings alone recommend {(names or [compressed(answer.before)])[0]}"
        if (run.trained["notation"] == answer.before).any():
            text = f"the short trainings changed the answer: {text}"
        else:
            text += ", which was not trained"
    if not (other := answer.to_change):
        return f"{text}; no other one alone is likely to change it"
    lower = f" if it ends {other['nats']:.3f} nats below what is expected" * (other["nats"] > 0)
    return (
        f"{text}; a short training of {compressed(other['notation'])} would change it{lower},"
        f" probability {_chance(other['probability'])}"
    )


def _outside(run: RecordedRun, answer: Answer) -> str:
    words = {str(row.hash): str(row.outside) for row in rows(run.trials) if row.outside}
    entry, own = _chosen(run, answer), words.get(answer.recommended)
    others = [each for each in run.front if each.hash in words and each is not entry]
    return _joined(
        f"no two publications have trained this of {entry.name}: {own}"
        if own
        else f"{entry.name} lies within what publications have trained",
        f"{'also ' * bool(own)}outside: {_names(others)}" * bool(others),
    )


# -- names and numbers -----------------------------------------------------------------------------


def _entry(run: RecordedRun, key: str) -> Trial:
    return run.finalists[key]


def _chosen(run: RecordedRun, answer: Answer) -> Trial:
    return _entry(run, answer.recommended)


def _named(run: RecordedRun, network: Any) -> str:
    """The name of a network on the front, else its notation."""
    finalist = run.finalists.get(network["hash"])
    return stack_label(network["notation"]) if finalist is None else finalist.name


def _names(entries: Sequence[Trial]) -> str:
    return names_text([entry.name for entry in entries])


def _joined(*texts: str) -> str:
    return "; ".join(filter(None, texts))


def _chance(probability: float) -> str:
    """`0.82`; no probability is 0 or 1."""
    return f"{min(max(probability, 0.01), 0.99):.2f}"


def _ms(run: RecordedRun, latency_ms: float | None) -> str:
    factor, unit = front_unit(run)
    return number(None if latency_ms is None else latency_ms * factor, 4, unit)
