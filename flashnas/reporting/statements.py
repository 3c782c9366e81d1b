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
from flashnas.latency.metrics import UPPER_END
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
from flashnas.run_folder.recorded_answer import Answer, Side
from flashnas.run_folder.recorded_run import RecordedRun, rows
from flashnas.trials.trial import Trial

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
LEAST_HOURS = 0.01  # of a full training, below which its hours are not counted


def statements(run: RecordedRun) -> list[tuple[str, str]]:
    """What a search says: a word or two, and a sentence or two about that."""
    said = _result(run) if run.answer is None else _said(run, run.answer, recommended(run))
    return [(about, words) for about, words in said.items() if words]


def _said(run: RecordedRun, answer: Answer, chosen: Trial) -> dict[str, str]:
    """The lines of an answer, in their order; empty where there is nothing to say."""
    lines = {"recommended": the_recommended(run, answer, chosen)}
    lines["loads in"] = loads_in(chosen.architecture)
    if answer.as_good:
        lines |= as_good(run, answer.as_good)
    lines |= {"times": times(answer), "before": before(run, answer, chosen)}
    if not answer.as_good:
        lines |= {
            "families": families(answer, chosen),
            "experts": experts(run, answer, chosen),
            "transformer": transformer(run, answer),
            "serving": serving(run, answer, chosen),
        }
    lines |= {"training": training(run, answer, chosen), "searched": searched(run)}
    if not answer.as_good:
        lines["limit"] = limit(run, answer, chosen)
    return lines | {
        "outside": outside(run, answer),
        "trained here": trained_here(answer, chosen),
        "own trainings": own_trainings(answer),
        "time first": time_first(run),
        "train first": train_first(run) or "",
    }


def the_recommended(run: RecordedRun, answer: Answer, chosen: Trial) -> str:
    """The network, with what it does not clearly lead; what it takes and holds."""
    factor, _ = latency_unit(run)
    ends = [end for end in (chosen.lower_ms, chosen.upper_ms) if is_number(end)]
    bounds = " to ".join(f"{end * factor:,.{int(factor < 1)}f}" for end in ends)
    behind = "" if answer.as_good else _may_be_better(answer, chosen)
    parts = [f"{'! ' * exceeds(run, chosen)}{time_text(run, chosen.latency_ms)}"]
    parts[0] += f" ({bounds})" * bool(bounds)
    for name in run.budgets:
        if name in UPPER_END and name != "latency_ms":
            time = number(getattr(chosen, name), unit="ms")
            parts.append(f"{name.removesuffix('_ms')} {'! ' * exceeds(run, chosen, name)}{time}")
    parts.append(parameters(chosen.params))
    if is_number(chosen.active_params) and chosen.active_params != chosen.params:
        parts[-1] += f" ({parameters(chosen.active_params)} active)"
    if is_number(chosen.memory_gb):
        parts.append(number(chosen.memory_gb, 3, "GB"))
    lead = f" ({behind} may be better)" * bool(behind)
    return f"{chosen.name}{lead}, {shape_of(chosen.notation)}: {', '.join(parts)}"


def _may_be_better(answer: Answer, chosen: Trial) -> str:
    """The best network of the other sort, dense or sparse, or the likeliest other family, where it may
    be the better one with a probability of 0.05 or more: its 90 % interval reaches over 0."""
    two = answer.dense_or_sparse
    if two and abs(two["difference"]) <= INTERVAL_90 * two["sd"]:
        return "dense networks" if chosen.notation == two["sparse"]["notation"] else "experts"
    others = [family for family in answer.families if family["hash"] != chosen.hash]
    likeliest = max(others, key=lambda family: family["best"], default=None)
    return _short(likeliest["family"]) if likeliest and likeliest["best"] >= LIKELY else ""


def as_good(run: RecordedRun, good: Any) -> dict[str, str]:
    """The model, the recommended network beside it, and one that is more surely as good."""
    model, own, likely = good["model"], good["chosen"], good["likely"]
    metrics = time_text(run, model["latency_ms"]), number(model["memory_gb"], 3, "GB")
    of_model = [f"{', '.join(metrics)}, {parameters(model['params'])}"]
    if model["outside"]:
        of_model.append(f"outside what publications have trained: {model['outside']}")
    beside = [
        _changes(run, model, own),
        f"loss no higher with probability {chance(own['probability'])}: {_nats(own)}",
        reasons_text(own["reasons"]),
    ]

    def slower(side: Side) -> bool:
        return "latency_ms" in run.objectives and side["latency_ms"] > model["latency_ms"]

    if slower(own):
        beside[0] = f"no network that is as good is as fast; the nearest: {beside[0]}"
    if likely is not None and slower(likely):
        surely = "with probability 0.9: no network that is as fast"
    elif likely is None:
        surely = "with probability 0.9: no network of the space within the limits"
    elif likely["notation"] == own["notation"]:
        surely = "the same network"
    else:
        names = [entry.name for entry in run.front if entry.notation == likely["notation"]]
        what = ", ".join([*names[:1], shape_of(likely["notation"])])
        surely = (
            f"with probability {chance(likely['probability'])}: {what}:"
            f" {_changes(run, model, likely)}; {_nats(likely)}"
        )
    return {
        "as good as": f"{shape_of(good['name'])}: {'; '.join(of_model)}",
        "beside it": "; ".join(filter(None, beside)),
        "more surely": surely,
    }


def families(answer: Answer, chosen: Trial) -> str:
    """Of each family the probability that it is the best."""
    if len(answer.families) < 1 + bool(chosen.runs_in):  # one alone is the best
        return ""
    ordered = sorted(answer.families, key=lambda family: -family["best"])
    likely = [family for family in ordered if family["best"] >= LIKELY]
    shares = [f"{_short(family['family'])} {chance(family['best'])}" for family in likely]
    if rest := ordered[len(likely) :]:
        shares.append(f"others {chance(sum(family['best'] for family in rest))}")
    said = f"best with probability: {', '.join(shares)}"
    wide = [
        _short(family["family"])
        for family in answer.families
        if family["silence"] >= LEAST_SILENCE and family["best"] >= NOTABLE
    ]
    said += f"; {names_text(wide)} by wide intervals" * bool(wide)
    networks = ((family, parsed(family["notation"])) for family in answer.families)
    loaded = next((family for family, network in networks if network and loading(network)), None)
    if loaded and not chosen.runs_in:
        said += f"; the best one that programs load: {_nats(loaded)}"
    return said


def experts(run: RecordedRun, answer: Answer, chosen: Trial) -> str:
    """Whether a network with experts is better within the limits, and the other one."""
    if not (two := answer.dense_or_sparse):
        return ""
    better = "sparse" if two["difference"] < 0 else "dense"
    lead = with_interval(abs(two["difference"]), two["sd"]).lstrip("+")
    said = f"{better} leads by {lead} nats"
    for sort, side in (("dense", two["dense"]), ("sparse", two["sparse"])):
        if side["notation"] != chosen.notation:
            active = f" ({parameters(side['active_params'])} active)" * (sort == "sparse")
            said += (
                f"; {sort}: {_without_places(side['notation'])},"
                f" {time_text(run, side['latency_ms'])}, {parameters(side['params'])}{active},"
                f" {number(side['memory_gb'], 3, 'GB')}, {number(side['train_hours'], 3)} hours"
            )
    return said


def transformer(run: RecordedRun, answer: Answer) -> str:
    """What the best stack of attention loses, why, and where a wider one makes up for it."""
    best = next((f for f in answer.families if f["family"].startswith("transformer (")), None)
    if best is None or best["hash"] == answer.recommended:
        return ""
    said = f"{best['family'].removeprefix('transformer ').strip('()')}: {_nats(best)}"
    if answer.wider:
        time, size = time_text(run, answer.wider["latency_ms"]), parameters(answer.wider["params"])
        return f"{said}; as good at {time} and {size}"
    return said + "; not even twice as wide is it as good" * (best["difference"] > 0)


def training(run: RecordedRun, answer: Answer, chosen: Trial) -> str:
    """What the planned training costs, the recall to expect, and what both follow from."""
    parts = []
    if answer.train_hours is not None:
        tokens = training_tokens(run)
        hours = answer.train_hours * tokens / answer.train_tokens
        said = number(hours, 3) if hours >= LEAST_HOURS else f"under {LEAST_HOURS}"
        vocab = f" with {chosen.architecture.vocab:,} words" * bool(answer.as_good)
        few = f" (losses are those of {tokens_text(answer.train_tokens)})"
        vocab += few * (tokens < answer.train_tokens)
        rate = f"{100 * answer.train_utilisation:.3g} % of its FLOP/s, texts of {answer.train_context:,}"
        parts.append(
            f"{tokens_text(tokens)} tokens{vocab}, {said} hours of {answer.train_device} ({rate})"
        )
    if is_number(recall := chosen.expected_recall):
        interval = with_interval(recall, chosen.expected_recall_sd or 0.0, 2)
        parts.append(f"recall {interval} to a transformer")
    further = ", with the law of size and the spreads of published ones"
    parts.append(f"by {answer.ranked_by}{further * (answer.ranked_by == 'own trainings')}")
    return "; ".join(parts)


def trained_here(answer: Answer, chosen: Trial) -> str:
    """What the search trained, and whether that changed the recommendation."""
    if not answer.trained:
        return ""
    count = counted(sum(len(each["networks"]) for each in answer.trained), "network")
    flops, before = sum(each["flops"] for each in answer.trained), answer.trained[0]["before"]
    changed = "; the recommendation stays"
    if before != chosen.notation:
        changed = f"; without them, {compressed(before)} would be recommended"
    return f"{count}, {flops:.1e} FLOPs{changed * bool(before)}"  # nothing ranked before


def searched(run: RecordedRun) -> str:
    """Which sampler proposed how many networks; where each was to be trained, how many of them it drew
    at random, and how many were trained."""
    if not (found := run.entry("proposed")):
        return ""
    if "at_random" in found:
        own = run.trials["origin"] == "search"
        trained = int((own & (run.trials["state"] == "complete")).sum())
        ways = {"at random": found["at_random"], f"by {found['sampler']}": found["by_sampler"]}
        parts = ", ".join(f"{count:,} {way}" for way, count in ways.items() if count)
        return f"{counted(sum(ways.values()), 'network')} proposed, {parts}; {trained:,} trained"
    return (
        f"{found['sampler']} proposed {found['networks']:,} networks,"
        f" {found['within']:,} within the limits"
    )


def limit(run: RecordedRun, answer: Answer, chosen: Trial) -> str:
    """What keeps the network from being better, where that is not a budget."""
    name = answer.limit
    if end := ENDS.get(name):
        return f"the budget is not used up: {end}" if run.budgets else end
    if name in LIMITS or [*run.budgets] == ["latency_ms"]:
        return LIMITS.get(name, "")
    used = f"the budget on {name} is used up: {number(chosen.figures.get(name))}"
    end = UPPER_END.get(name) if run.entry("options", "budget_holds") == "upper" else None
    return f"{used}, at the upper end {number(getattr(chosen, end))}" if end else used


def outside(run: RecordedRun, answer: Answer) -> str:
    trials = (row.outside for row in rows(run.trials) if row.hash == answer.recommended)
    if not (words := next(filter(None, trials), "")):
        return ""
    trained = answer.ranked_by.endswith("trainings")
    what = "what two or more publications have trained" if trained else "the range of its scorer"
    return f"{what}: {words}"


def times(answer: Answer) -> str:
    """How far observed times are from the table."""
    if not (found := answer.times):
        return ""
    mean, lowest, highest = found["ratio"]
    timed = f"{counted(len(found['networks']), 'network')} in {found['program']}"
    return f"{timed}: {mean:.2f} x the table ({lowest:.2f} to {highest:.2f})"


def before(run: RecordedRun, answer: Answer, chosen: Trial) -> str:
    """What the run recommended that is asked again."""
    if not (found := answer.before):
        return ""
    now = found["now"]
    over = ", over the budget" * bool(now and now > run.budgets.get("latency_ms", now))
    times = f"at {time_text(run, found['latency_ms'])}, now {time_text(run, now)}{over}"
    if found["notation"] == chosen.notation:
        return f"the same network, {times}"
    return f"{shape_of(found['notation'])}, {times}: {_nats(found)}"


def time_first(run: RecordedRun) -> str:
    """What makes the answer surer in minutes."""
    if not (names := to_time(run)):
        return ""
    what = f"times {counted(len(names), 'network')} without trained weights, and answers again"
    return f"sh {shlex.quote(str(run.path / TIME_IT))}: {what}"


def own_trainings(answer: Answer) -> str:
    """What the trainings of `--evidence` changed."""
    if not (before := answer.without_own):
        return ""
    if before["hash"] == answer.recommended:
        return "they do not change the recommendation"
    return f"without them, {shape_of(before['notation'])} would be recommended: {_nats(before)}"


def _result(run: RecordedRun) -> dict[str, str]:
    """The lines of a search without an answer."""

    def reached(name: str, entry: Any) -> str:
        return f"{name}, loss {fixed(entry.loss)} at {time_text(run, entry.latency_ms)}"

    lines = {}
    if scored := [entry for entry in run.front if is_number(entry.loss)]:
        best = min(scored, key=lambda entry: entry.loss or 0.0)
        lines["lowest loss"] = reached(best.name, best)
    if not run.ranks_full and not run.baselines.empty:
        baseline = min(rows(run.baselines), key=lambda row: row.loss)
        lines["best baseline"] = reached(printable(baseline.label), baseline)
    lines |= {"networks": counts_line(run), "searched": searched(run)}
    if not run.failed.empty:
        count = f"{len(run.failed)} of {len(run.failed) + len(run.trained)} trainings"
        reason = str(run.failed["reason"].mode().iloc[0]).rstrip(".") or "?"
        lines["failed"] = f"{count}, most often: {reason}"
    return lines


# -- parts of sentences ----------------------------------------------------------------------------


def _nats(found: Any) -> str:
    return f"{with_interval(found['difference'], found['sd'])} nats"


def _short(family: str) -> str:
    return family.partition(" (")[0]


def _without_places(notation: str) -> str:
    return shape_of(notation, with_attention=False)


def _changes(run: RecordedRun, model: Side, side: Side) -> str:
    """`3.641 s less, 3.93 GB more, 2.083 B parameters more`."""
    texts: dict[str, Callable[[float], str]] = {
        "latency_ms": lambda ms: time_text(run, ms),
        "memory_gb": lambda gb: number(gb, 3, "GB"),
        "params": lambda count: f"{parameters(count)} parameters",
    }
    gaps = {name: side[name] - model[name] for name in texts}  # type: ignore[literal-required]
    return ", ".join(
        f"{texts[name](abs(gap))} {'less' if gap < 0 else 'more'}" for name, gap in gaps.items()
    )
