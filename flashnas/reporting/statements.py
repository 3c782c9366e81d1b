"""The answer of a search in lines, for the terminal and the page: a function for each."""

from __future__ import annotations

import shlex
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
    tokens_text,
    with_interval,
)
from flashnas.families.programs import loading
from flashnas.reporting.commands import TIME_IT, to_time, train_first, training_tokens
from flashnas.reporting.serving import serving
from flashnas.reporting.words import (
    LEAST_SILENCE,
    chance,
    counts_line,
    exceeds,
    latency_unit,
    loads_in,
    reasons_text,
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
    "support": "another network has a lower expected loss, and a higher charge",
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
    """The network, with what it does not clearly lead; what it takes and holds."""
    chosen, (factor, _) = recommended(run), latency_unit(run)
    ends = [chosen.figures.get(name) for name in ("lower_ms", "upper_ms")]
    digits = 1 if factor < 1 else 0
    bounds = " to ".join(f"{end * factor:,.{digits}f}" for end in ends if is_number(end))
    active, memory_gb = (chosen.figures.get(name) for name in ("active_params", "memory_gb"))
    sparse = is_number(active) and active != chosen.params
    behind, memory = _may_be_better(run), number(memory_gb, 3, "GB")
    return (
        f"{chosen.name}{f' ({behind} may be better)' if behind else ''},"
        f" {shape_of(chosen.notation)}:"
        f" {'! ' * exceeds(run, chosen)}{time_text(run, chosen.latency_ms)}"
        f"{f' ({bounds})' if bounds else ''}, {parameters(chosen.params)}"
        f"{f' ({parameters(active)} active)' if sparse else ''}"
        f"{f', {memory}' if is_number(memory_gb) else ''}"
    )


def _may_be_better(run: RecordedRun) -> str:
    """The best network of the other sort, dense or sparse, or the likeliest other family, where it may
    be the better one with a probability of 0.05 or more: its 90 % interval reaches over 0."""
    answer, chosen = _answer(run), recommended(run)
    two = answer.dense_or_sparse
    others = [family for family in answer.families if family["hash"] != chosen.hash]
    if answer.as_good:  # which asks for no lead
        return ""
    if two and abs(two["difference"]) <= INTERVAL_90 * two["sd"]:
        return "dense networks" if chosen.notation == two["sparse"]["notation"] else "experts"
    likeliest = max(others, key=lambda family: family["best"], default=None)
    if likeliest is None or likeliest["best"] < LIKELY:
        return ""
    return _short(likeliest["family"])


def as_good_as(run: RecordedRun) -> str | None:
    good = _answer(run).as_good
    if not good:
        return None
    model = good["model"]
    figures = f"{time_text(run, model['latency_ms'])}, {number(model['memory_gb'], 3, 'GB')}"
    outside = f"; outside what publications have trained: {model['outside']}"
    return (
        f"{shape_of(good['name'])}: {figures}, {parameters(model['params'])}"
        f"{outside if model['outside'] else ''}"
    )


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
    """Of each family the probability that it is the best."""
    answer, chosen = _answer(run), recommended(run)
    if len(answer.families) < 1 + bool(chosen.runs_in) or answer.as_good:  # one alone is the best
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
    networks = ((family, parsed(family["notation"])) for family in answer.families)
    loaded = next((family for family, network in networks if network and loading(network)), None)
    if loaded and not chosen.runs_in:
        parts.append(f"the best one that programs load: {_nats(loaded)}")
    return "; ".join(parts)


def experts(run: RecordedRun) -> str | None:
    """Whether a network with experts is better within the limits, from where on, and the other one."""
    two, chosen = _answer(run).dense_or_sparse, recommended(run)
    if not two or _answer(run).as_good:
        return None
    better = "sparse" if two["difference"] < 0 else "dense"
    lead = with_interval(abs(two["difference"]), two["sd"]).lstrip("+")
    parts = [
        f"{better} leads by {lead} nats, from {two['from_gb']:.3g}"
        f" to {number(two['memory_gb'], 3, 'GB')}"
        + (f", up to batch {two['to_batch']}" if two["to_batch"] else "")
    ]
    for sort in ("dense", "sparse"):
        side = two[sort]
        if side["notation"] != chosen.notation:
            active = f" ({parameters(side['active_params'])} active)" * (sort == "sparse")
            parts.append(
                f"{sort}: {_without_places(side['notation'])}, {time_text(run, side['latency_ms'])},"
                f" {parameters(side['params'])}{active}, {number(side['memory_gb'], 3, 'GB')},"
                f" {number(side['train_hours'], 3)} hours"
            )
    return "; ".join(parts)


def transformer(run: RecordedRun) -> str | None:
    """What the best stack of attention loses, why, and where a wider one makes up for it."""
    answer = _answer(run)
    best = next((f for f in answer.families if f["family"].startswith("transformer (")), None)
    if best is None or best["hash"] == answer.recommended or answer.as_good:
        return None
    said = f"{best['family'].removeprefix('transformer ').strip('()')}: {_nats(best)}"
    if answer.wider:
        time, size = time_text(run, answer.wider["latency_ms"]), parameters(answer.wider["params"])
        return f"{said}; as good at {time} and {size}"
    return said + "; not even twice as wide is it as good" * (best["difference"] > 0)


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
    alone = answer.ranked_by == "own trainings"
    parts.append(
        f"by {answer.ranked_by}"
        + ", with the law of size and the spreads of published ones" * alone
    )
    return "; ".join(parts)


def trained_here(run: RecordedRun) -> str | None:
    """What the search trained, and whether that changed the recommendation."""
    answer = _answer(run)
    if not answer.trained:
        return None
    count = counted(sum(len(each["networks"]) for each in answer.trained), "network")
    flops, before = sum(each["flops"] for each in answer.trained), answer.trained[0]["before"]
    changed = "; they did not change the recommendation"
    if before != recommended(run).notation:
        changed = f"; without them, {compressed(before)} would be recommended"
    return f"{count}, {flops:.1e} FLOPs{changed * bool(before)}"  # nothing ranked before


def searched(run: RecordedRun) -> str | None:
    """Which sampler proposed how many networks."""
    if not (found := run.entry("proposed")):
        return None
    return (
        f"{found['sampler']} proposed {found['networks']:,} networks,"
        f" {found['within']:,} within the limits"
    )


def limit(run: RecordedRun) -> str | None:
    """What keeps the network from being better, where that is not a budget."""
    if _answer(run).as_good:
        return None
    budgets, name = run.entry("options", "budgets") or {}, _answer(run).limit
    if (end := ENDS.get(name)) is None:
        used = f"the budget on {name} is used up: {number(recommended(run).figures.get(name))}"
        return LIMITS.get(name, None if [*budgets] == ["latency_ms"] else used)
    return f"the budget is not used up: {end}" if budgets else end


def outside(run: RecordedRun) -> str | None:
    chosen = _answer(run).recommended
    words = next((str(r.outside) for r in rows(run.trials) if r.hash == chosen and r.outside), "")
    if not words:
        return None
    what = "what two or more publications have trained"
    return f"{what if _by_trainings(_answer(run)) else 'the range of its scorer'}: {words}"


def times(run: RecordedRun) -> str | None:
    """How far observed times are from the table."""
    found = _answer(run).times
    if not found:
        return None
    mean, lowest, highest = found["ratio"]
    timed = f"{counted(len(found['networks']), 'network')} in {found['program']}"
    return f"{timed}: {mean:.2f} x the table ({lowest:.2f} to {highest:.2f})"


def before(run: RecordedRun) -> str | None:
    """What the run recommended that is asked again."""
    if (found := _answer(run).before) is None:
        return None
    most = (run.entry("options", "budgets") or {}).get("latency_ms")
    over = ", over the budget" * bool(found["now"] and most and found["now"] > most)
    times = f"at {time_text(run, found['latency_ms'])}, now {time_text(run, found['now'])}{over}"
    if found["notation"] == recommended(run).notation:
        return f"the same network, {times}"
    return f"{shape_of(found['notation'])}, {times}: {_nats(found)}"


def time_first(run: RecordedRun) -> str | None:
    """What makes the answer surer in minutes."""
    if not (names := to_time(run)):
        return None
    what = f"times {counted(len(names), 'network')} without trained weights, and answers again"
    return f"sh {shlex.quote(str(run.path / TIME_IT))}: {what}"


def own_trainings(run: RecordedRun) -> str | None:
    """What the trainings of `--evidence` changed."""
    if not (before := _answer(run).without_own):
        return None
    if before["hash"] == _answer(run).recommended:
        return "they do not change the recommendation"
    lead = with_interval(before["difference"], before["sd"])
    return f"without them, {_without_places(before['notation'])} would be recommended: {lead} nats"


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
    "before": before,
    "families": families,
    "experts": experts,
    "transformer": transformer,
    "serving": serving,
    "training": training,
    "searched": searched,
    "limit": limit,
    "outside": outside,
    "trained here": trained_here,
    "own trainings": own_trainings,
    "time first": time_first,
    "train first": train_first,
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
