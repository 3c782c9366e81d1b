"""The answer of a search in lines, for the terminal and the page: a function for each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from flashnas.architecture.architecture import compressed, parsed
from flashnas.base.text import (
    INTERVAL_90,
    counted,
    fixed,
    is_number,
    names_text,
    number,
    parameters,
    printable,
    signed,
    tokens_text,
    with_interval,
)
from flashnas.families.programs import loading
from flashnas.reporting.commands import time_it, to_time, training_tokens
from flashnas.reporting.phrases import chance, reasons_text
from flashnas.reporting.words import (
    LEAST_SILENCE,
    counts_line,
    latency_unit,
    loads_in,
    recommended,
    shape_of,
    time_text,
)
from flashnas.run_folder.recorded_answer import Against, Answer, Side
from flashnas.run_folder.recorded_run import RecordedRun, rows

LIMITS = {
    "memory_gb": "the memory is used up: more would allow a better network",
    "params": "the bound on parameters is reached: a higher one would allow a better network",
    "active_params": "the bound on active parameters is reached: a higher one would allow a better one",
    "space params": "the space has no larger network; --params A..B bounds it otherwise",
    "support": "another network has a lower expected loss, but a higher charge for what no training"
    " covers",
}
ENDS = {
    "hours": "a larger network would be trained on too few tokens in these hours",
    "space": "no other network of the space ranks higher",
    "width": "the space has no greater width",
    "depth": "the space has no more layers",
    "width and depth": "the space has no greater width and no more layers",
}
LIKELY = 0.05  # probability up to which families are named together
NOTABLE = 0.2  # probability from which on it is said that a family is hardly known


def statements(run: RecordedRun) -> list[tuple[str, str]]:
    """What a search says: a word or two, and a sentence or two about that."""
    lines = RESULT if run.answer is None else ANSWER
    return [(about, words) for about, line in lines.items() if (words := line(run))]


def the_recommended(run: RecordedRun) -> str:
    chosen, (factor, _) = recommended(run), latency_unit(run)
    ends = [chosen.figures.get(name) for name in ("lower_ms", "upper_ms")]
    digits = 1 if factor < 1 else 0
    bounds = " to ".join(fixed(end * factor, digits) for end in ends if is_number(end))
    active = chosen.figures.get("active_params")
    sparse = is_number(active) and active != chosen.params
    return (
        f"{chosen.name}, {shape_of(chosen.notation)}: {time_text(run, chosen.latency_ms)}"
        f"{f' ({bounds})' if bounds else ''}, {parameters(chosen.params)}"
        f"{f' ({parameters(active)} active)' if sparse else ''}"
    )


def as_good_as(run: RecordedRun) -> str | None:
    good = _answer(run).as_good
    if not good:
        return None
    model = good["model"]
    figures = f"{time_text(run, model['latency_ms'])}, {number(model['memory_gb'], 3, 'GB')}"
    words = f"{shape_of(good['name'])}: {figures}, {parameters(model['params'])}"
    outside = f"; outside what publications have trained: {model['outside']}" * bool(
        model["outside"]
    )
    return f"{words}; {loads_in(parsed(model['notation']))}{outside}"


def beside_it(run: RecordedRun) -> str | None:
    good = _answer(run).as_good
    if not good:
        return None
    model, own = good["model"], good["chosen"]
    slower = own["latency_ms"] > model["latency_ms"] and "latency_ms" in run.objectives
    parts = [
        "no network that is as good is as fast; the nearest: " * slower + _changes(run, model, own),
        f"loss no higher with probability {chance(own['probability'])}: {_nats(own)}",
        reasons_text(own["reasons"]),
    ]
    if own["recall"] is not None and model["recall"] is not None:
        parts.append(f"recall {signed(own['recall'] - model['recall'], 2)}")
    return "; ".join(filter(None, parts))


def more_surely(run: RecordedRun) -> str | None:
    good = _answer(run).as_good
    if not good:
        return None
    likely = good["likely"]
    if likely is None:
        return "with probability 0.9: no network of the space within the limits"
    if likely["notation"] == good["chosen"]["notation"]:
        return "the same network"
    names = [entry.name for entry in run.front if entry.notation == likely["notation"]]
    what = ", ".join([*names[:1], shape_of(likely["notation"])])
    changes = _changes(run, good["model"], likely)
    return f"with probability {chance(likely['probability'])}: {what}: {changes}; {_nats(likely)}"


def families(run: RecordedRun) -> str | None:
    """Of each family the probability that it is the best; and whether the lead over the next one lies
    within its interval."""
    answer, chosen = _answer(run), recommended(run)
    if not answer.families:
        return None
    ordered = sorted(answer.families, key=lambda family: -family["best"])
    shares = [
        f"{_short(family['family'])} {chance(family['best'])}"
        for family in ordered
        if family["best"] >= LIKELY
    ]
    if rest := ordered[len(shares) :]:
        shares.append(f"others {chance(sum(family['best'] for family in rest))}")
    parts = [f"best with probability: {', '.join(shares)}"]
    wide = [
        _short(family["family"])
        for family in answer.families
        if family["silence"] >= LEAST_SILENCE and family["best"] >= NOTABLE
    ]
    if wide:
        parts.append(f"{names_text(wide)} by wide intervals")
    second = next((f for f in answer.families if f["hash"] != answer.recommended), None)
    networks = ((family, parsed(family["notation"])) for family in answer.families)
    loaded = next((family for family, network in networks if network and loading(network)), None)
    if not chosen.runs_in:
        if loaded is not None:
            parts.append(f"the best one that programs load: {_nats(loaded)}")
    elif second is not None and abs(second["difference"]) <= INTERVAL_90 * second["sd"]:
        parts.append("no lead beyond its interval")
    return "; ".join(parts)


def experts(run: RecordedRun) -> str | None:
    """Whether a network with experts is better within the limits, from where on, and the other one."""
    two, chosen = _answer(run).dense_or_sparse, recommended(run)
    if not two:
        return None
    better, other = ("sparse", "dense") if two["difference"] < 0 else ("dense", "sparse")
    lead = with_interval(abs(two["difference"]), two["sd"]).lstrip("+")
    holds = f"from {two['from_gb']:.3g} GB on"
    if two["to_batch"]:
        holds += f" and up to batch {two['to_batch']}"
    sides = []
    for sort, side in ((other, two[other]), (better, two[better])):  # type: ignore[literal-required]
        parts = [number(side["memory_gb"], 3, "GB")]
        if sort == "sparse" and side["notation"] != chosen.notation:
            parts.append(f"{parameters(side['active_params'])} active")
        if side["notation"] != chosen.notation:
            shape, time = _without_places(side["notation"]), time_text(run, side["latency_ms"])
            hours = f"{number(side['train_hours'], 3)} hours"
            parts = [shape, time, parameters(side["params"]), *parts, hours]
        sides.append(f"{sort}: {', '.join(parts)}")
    within = number(two["memory_gb"], 3, "GB")
    return f"{better} is better by {lead} nats within {within}, {holds}; {'; '.join(sides)}"


def transformer(run: RecordedRun) -> str | None:
    """What the best stack of attention loses, why, and where a wider one makes up for it."""
    answer = _answer(run)
    best = next((f for f in answer.families if f["family"].startswith("transformer (")), None)
    if best is None or best["hash"] == answer.recommended:
        return None
    if answer.wider:
        time, size = time_text(run, answer.wider["latency_ms"]), parameters(answer.wider["params"])
        return f"{_nats(best)}; as good at {time} and {size} parameters"
    never = "; not even twice as wide is it as good" * (best["difference"] > 0)
    return f"{_nats(best)}{never}"


def equals(run: RecordedRun) -> str | None:
    found = _answer(run).equals
    if not found or not found["count"]:
        return None
    examples = "; ".join(map(shape_of, found["examples"]))
    return f"{counted(found['count'], 'network')} within {found['within']} nats, e.g. {examples}"


def training(run: RecordedRun) -> str:
    """What the planned training costs, the recall to expect, and what both follow from."""
    answer, figures, parts = _answer(run), recommended(run).figures, []
    if answer.train_hours is not None:
        tokens = training_tokens(run)
        hours = number(answer.train_hours * tokens / answer.train_tokens, 3)
        vocab = f" with {recommended(run).architecture.vocab:,} words" * bool(answer.as_good)
        rate = f"{100 * answer.train_utilisation:.3g} % of its FLOP/s, texts of {answer.train_context:,}"
        parts.append(
            f"{tokens_text(tokens)} tokens{vocab}, {hours} hours of {answer.train_device} ({rate})"
        )
    if is_number(recall := figures.get("expected_recall")):
        sd = figures.get("expected_recall_sd") or 0.0
        parts.append(f"recall {with_interval(recall, sd, 2)} to a transformer")
    parts.append(f"by {answer.ranked_by}")
    if answer.extrapolated and _by_trainings(answer):
        parts.append("no publication has this length")
    return "; ".join(parts)


def trained_here(run: RecordedRun) -> str | None:
    """What the search trained, and whether that changed the recommendation; or what publications say
    of networks that own trainings alone rank."""
    answer = _answer(run)
    if claims := answer.claims:
        pairs = counted(claims["pairs"], "pair")
        order = f"agree on the order of {claims['alike']} of {pairs} of the front, and "
        same = claims["hash"] == answer.recommended
        gap = ", too" if same else f": {with_interval(claims['difference'], claims['sd'])} nats"
        return (
            "own trainings alone rank the networks; publications"
            f" {order * bool(claims['pairs'])}would recommend"
            f" {run.finalists[claims['hash']].name}{gap}"
        )
    if not answer.bought:
        return None
    count = counted(sum(len(bought["networks"]) for bought in answer.bought), "network")
    flops, before = sum(bought["flops"] for bought in answer.bought), answer.bought[0]["before"]
    changed = "they did not change the recommendation"
    if before != recommended(run).notation:
        changed = f"without them, {compressed(before)} would be recommended"
    return f"{count}, {flops:.1e} FLOPs; {changed}"


def searched(run: RecordedRun) -> str | None:
    """Which sampler proposed how many networks."""
    if not (found := run.entry("proposed")):
        return None
    return (
        f"{found['sampler']} proposed {found['networks']:,} networks,"
        f" {found['within']:,} of them within the limits"
    )


def limit(run: RecordedRun) -> str | None:
    """What keeps the network from being better, where that is not a budget."""
    if (end := ENDS.get(_answer(run).limit)) is None:
        return LIMITS.get(_answer(run).limit)
    return f"the budget is not used up: {end}" if run.entry("options", "budgets") else end


def outside(run: RecordedRun) -> str | None:
    chosen = _answer(run).recommended
    words = next((str(r.outside) for r in rows(run.trials) if r.hash == chosen and r.outside), "")
    if not words:
        return None
    what = "what two or more publications have trained"
    return f"{what if _by_trainings(_answer(run)) else 'the range of its scorer'}: {words}"


def times(run: RecordedRun) -> str | None:
    """How far observed times are from the table, and what would be recommended without them."""
    found = _answer(run).times
    if not found:
        return None
    mean, lowest, highest = found["ratio"]
    without = "no network is within the budget"
    if found["notation"] == recommended(run).notation:
        without = "the same network"
    elif found["notation"]:
        time = time_text(run, found["latency_ms"])
        without = f"{_without_places(found['notation'])} ({time})"
    timed = f"{counted(len(found['networks']), 'network')} in {found['program']}"
    ratio = f"{mean:.2f} x the table ({lowest:.2f} to {highest:.2f})"
    return f"{timed}: {ratio}; without them {without}"


def settles_it(run: RecordedRun) -> str | None:
    """What would make the answer more certain."""
    answer = _answer(run)
    if to_time(run):
        return "its time in your engine, as below"
    if (
        answer.ranked_by != "published trainings"
        or answer.as_good
        or run.entry("options", "trials")
    ):
        return None
    return "--trials N, which trains what is expected to improve the recommended network most"


def lowest_loss(run: RecordedRun) -> str | None:
    scored = [entry for entry in run.front if is_number(entry.loss)]
    if not scored:
        return None
    best = min(scored, key=lambda entry: entry.loss or 0.0)
    return f"{best.name}, loss {fixed(best.loss)} at {time_text(run, best.latency_ms)}"


def best_baseline(run: RecordedRun) -> str | None:
    if run.ranks_full or run.baselines.empty:
        return None
    best = min(rows(run.baselines), key=lambda row: row.loss)
    return f"{printable(best.label)}, loss {fixed(best.loss)} at {time_text(run, best.latency_ms)}"


def failures(run: RecordedRun) -> str | None:
    if run.failed.empty:
        return None
    count = f"{len(run.failed)} of {len(run.failed) + len(run.trained)} trainings"
    return f"{count}, most often: {str(run.failed['reason'].mode().iloc[0]).rstrip('.') or '?'}"


Line = Callable[[RecordedRun], str | None]
ANSWER: dict[str, Line] = {
    "recommended": the_recommended,
    "loads in": lambda run: loads_in(recommended(run).architecture),
    "as good as": as_good_as,
    "beside it": beside_it,
    "more surely": more_surely,
    "times": times,
    "families": families,
    "experts": experts,
    "transformer": transformer,
    "equals": equals,
    "training": training,
    "searched": searched,
    "limit": limit,
    "outside": outside,
    "trained here": trained_here,
    "settles it": settles_it,
    "time it": time_it,
}
RESULT: dict[str, Line] = {
    "lowest loss": lowest_loss,
    "best baseline": best_baseline,
    "networks": counts_line,
    "searched": searched,
    "failed": failures,
}


# -- parts of sentences ----------------------------------------------------------------------------


def _answer(run: RecordedRun) -> Answer:
    assert run.answer is not None
    return run.answer


def _by_trainings(answer: Answer) -> bool:
    return answer.ranked_by.endswith("trainings")


def _nats(found: Any) -> str:
    return f"{with_interval(found['difference'], found['sd'])} nats"


def _short(family: str) -> str:
    return family.partition(" (")[0]


def _without_places(notation: str) -> str:
    return shape_of(notation).partition(", attention")[0]


def _changes(run: RecordedRun, model: Side, side: Against) -> str:
    """`3.641 s less, 3.93 GB more, 2.083 B parameters more`."""

    def gap(text: Callable[[float], str], value: float) -> str:
        return f"{text(abs(value))} {'less' if value < 0 else 'more'}"

    return ", ".join(
        (
            gap(lambda ms: time_text(run, ms), side["latency_ms"] - model["latency_ms"]),
            gap(lambda gb: number(gb, 3, "GB"), side["memory_gb"] - model["memory_gb"]),
            gap(lambda n: f"{parameters(n)} parameters", side["params"] - model["params"]),
        )
    )
