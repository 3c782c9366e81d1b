"""What `proxy-trust` and `proxy-trust --published` print."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

from flashnas.report.text import columns, counted, known

Result = Mapping[str, Any]   # of a study, as its to_dict() gives it

# -- proxy-trust ---------------------------------------------------------------------------------------------

def trust_text(result: Result) -> str:
    """Verdict and figures of a Trust.to_dict()."""
    lines = [*verdict(result), "", *columns([
        ("rank correlation (95 % interval)", "n", "Spearman", "Kendall"),
        *((f"{each['first']} : {each['second']}", str(each["count"]), _interval(each["spearman"]),
           _interval(each["kendall"])) for each in result["agreements"])], (0, 2))]
    if known(result["ceiling"]):
        lines.append(f"what seeds leave room for  {result['ceiling']:.3f}")
    if result["noise"]:
        lines += ["", *columns([
            ("noise between seeds (nats)", "n", "sd", "one run tells apart", "means tell apart",
             "pairs that cannot be told apart"),
            *((each["variant"], str(each["seeds"]),
               *(f"{each[name]:.4f}" for name in ("sd", "detectable", "detectable_mean")),
               f"{each['pairs_tied']:.0%}") for each in result["noise"])], (0,))]
    if picks := _picks(result):
        tops = sorted({top for _, top in picks})
        rows = {rule: [f"{picks[rule, top]['regret']:.4f}" if (rule, top) in picks else "" for top in tops]
                for rule, _ in picks}
        rows["at random"] = [f"{next(p['by_chance'] for (_, of), p in picks.items() if of == top):.4f}"
                             for top in tops]
        lines += ["", *columns([("long loss above the best, if picked", *(f"of top {top}" for top in tops)),
                                *((rule, *cells) for rule, cells in rows.items())], (0,))]
    return "\n".join(lines)


def verdict(result: Result) -> list[str]:
    """Sentences that a reader can act on, the most important first."""
    failed = f", {result['failed']} more failed" if result["failed"] else ""
    return [f"{result['trainings']} trainings of {result['architectures']} architectures{failed}",
            *_order_words(result), *_front_words(result), *_gain_words(result), *_pick_words(result)]


def headline(result: Result) -> str:
    """The words above the picture: the rank correlation of short and long training with its interval."""
    agreement = _agreements(result).get(("short", "long"))
    return (f"Spearman {_interval(agreement['spearman'])} (95 %), {agreement['count']} architectures"
            if agreement else "too few architectures are trained both short and long")


def _order_words(result: Result) -> Iterable[str]:
    agreement = _agreements(result).get(("short", "long"))
    if agreement is None:
        yield ("not known yet: whether longer training ranks alike (too few architectures are trained short"
               " and long)")
        return
    rho, longer = agreement["spearman"], result["tokens"]["long"] / result["tokens"]["short"]
    words = f"Spearman {_interval(rho)} over {agreement['count']} architectures"
    if rho["low"] <= 0:
        yield (f"NOISE: the order cannot be told from chance once training is {longer:g} times longer:"
               f" {words}; do not choose by it")
    elif rho["value"] >= 0.8 and rho["low"] >= 0.5:
        yield f"the order largely holds when training is {longer:g} times longer: {words}"
    else:
        yield (f"the order holds in part when training is {longer:g} times longer: {words};"
               " choose a group by it, not a winner")
    if known(result["ceiling"]):
        yield f"seeds alone would leave room for {result['ceiling']:.3f}"


def _front_words(result: Result) -> Iterable[str]:
    noise = {each["variant"]: each for each in result["noise"]}.get("short")
    if noise is None:
        yield "not known yet: how much is noise (it takes two seeds of the short training)"
        return
    least = f"{noise['detectable']:.3f} nats"
    if result["neighbours"]:
        yield (f"the order of the front is noise below {least}: {result['tied_neighbours']} of"
               f" {result['neighbours']} neighbours on the front cannot be told apart by one run each")
    yield (f"one run each tells two architectures apart from {least} on, the mean of {noise['seeds']} seeds"
           f" from {noise['detectable_mean']:.3f} on; {noise['pairs_tied']:.0%} of all pairs differ by less"
           " than that")


def _gain_words(result: Result) -> Iterable[str]:
    agreements = _agreements(result)
    for guess, gain in result["gains"].items():
        if (guess, "long") not in agreements:
            continue
        name = {"parameters": "the parameter count", "width": "the width alone"}[guess]
        against = f"that gives Spearman {_interval(agreements[guess, 'long']['spearman'])}"
        if gain["low"] > 0:
            yield f"short training ranks better than {name}: {against}"
        elif gain["high"] < 0:
            yield f"NOISE: {name} ranks better than short training: {against}"
        else:
            yield f"not shown: that short training ranks better than {name}, since {against}"


def _pick_words(result: Result) -> Iterable[str]:
    picks = _picks(result)
    if pick := picks.get(("short", 1)):
        size = picks.get(("parameters", 1), {}).get("regret")
        other = f", the largest {size:.3f}," if known(size) else ""
        yield (f"the best of short training is {pick['regret']:.3f} nats above the best of long"
               f" training{other} a random one {pick['by_chance']:.3f}")


def _agreements(result: Result) -> Mapping[tuple[str, str], Any]:
    return {(each["first"], each["second"]): each for each in result["agreements"]}


def _picks(result: Result) -> Mapping[tuple[str, int], Any]:
    return {(pick["rule"], pick["top"]): pick for pick in result["picks"]}


def _interval(entry: Mapping[str, float]) -> str:
    return f"{entry['value']:.3f} [{entry['low']:.2f}, {entry['high']:.2f}]"


# -- proxy-trust --published ---------------------------------------------------------------------------------

MODELS = {"short": "short: the loss of a short training", "law": "law: size and shape",
          "evidence": "evidence: law and mix", "full": "full: evidence and short loss"}


def published_text(result: Result) -> str:
    """The verdict, the models, and of the short loss a table by group, guesses, and the wrong pairs."""
    lines = [*published_verdict(result), "", *_models(result)]
    if result["overall"]["share"] is None:
        return "\n".join(lines)
    groups = {group["group"]: group for group in result["groups"] if group["pairs"]}
    among = {"one publication by another": result["publications"],
             "one publication by its other group": result["scales"]}
    named = {"all groups": result["overall"], **groups, "pairs that all groups agree on": result["consensus"],
             **{f"guessed by {name}" if name != "a coin" else name: guess
                for name, guess in result["baselines"].items()},
             **{name: pairs for name, pairs in among.items() if pairs["pairs"]}}
    lines += ["", *columns([
        ("order by the short loss", "right of pairs", "share", "95 % interval", "0.01 to 0.02 nats",
         "Spearman"),
        *((name, f"{pairs['right']:g} of {pairs['pairs']}", _format(pairs["share"], ".0%"),
           _share_interval(pairs.get("interval")), _right(pairs.get("close")),
           _format(pairs.get("spearman"), ".2f")) for name, pairs in named.items())], (0, 3))]
    for name, group in groups.items():   # the wrong pairs, by the network that comes out too good
        behind = defaultdict(list)
        for pair in group["wrong"]:
            better, _, worse = pair.partition(" | ")
            behind[worse].append(better)
        if behind:
            lines += ["", f"ordered wrongly in {name} ({counted(len(group['wrong']), 'pair')}):"]
        for worse, betters in sorted(behind.items(), key=lambda item: -len(item[1])):
            lines += [f"  {worse} should be behind", *(f"    {better}" for better in betters)]
    return "\n".join(lines)


def published_verdict(result: Result) -> list[str]:
    """Sentences that a reader can act on."""
    full, overall = result["models"]["full"], result["overall"]
    lines = []
    if full["pairs"]:
        lines.append(f"published trainings without the row's own publication foretell {full['right']:g} of"
                     f" {full['pairs']} clear pairs ({full['share']:.0%}), differences to"
                     f" {full['rmse_nats']:.3f} nats; {full['coverage']:.0%} lie in the 90 % intervals")
    cost = (f"{result['trainings']} trainings took {result['core_seconds'] / 60:.0f} core-minutes,"
            f" the longest {result['core_seconds_each'] / 60:.1f}")
    if result.get("from_bench"):
        cost += f"; from the shipped bench: {result['from_bench']}"
    for name, words in (("missing", "were not trained"), ("failed", "failed")):
        if result.get(name):
            cost += f"; {result[name]} {words}, and their pairs have no short loss"
    if overall["share"] is None:
        return [*lines, "the short loss is not known yet: no clear pair has both of its networks trained",
                cost]
    words = (f"recipe {result['recipe']['name']!r} orders {overall['right']:g} of {overall['pairs']} clear"
             f" pairs as published ({overall['share']:.0%}, 95 % interval"
             f" {_share_interval(overall['interval'])})")
    worst = min((group for group in result["groups"] if group["share"] is not None),
                key=lambda group: group["share"])
    sure = overall["interval"][0] > 0.5
    return [*lines, words if sure else f"NOISE: {words}: no better than a coin for sure",
            f"the worst group is {worst['group']}: {worst['right']:g} of {worst['pairs']}"
            f" ({worst['share']:.0%})", cost]


def _models(result: Result) -> list[str]:
    """Each model over the pairs that it has, over those that all have, and by group."""
    models = result["models"]
    lines = []
    for words, by_name in (("each row foretold without its publication", models),
                           ("the same, over the pairs that all have", result["models_common"])):
        lines += [*columns([(words, "clear pairs", "share", "publications equal", "RMSE nats",
                             "in 90 % interval"),
                            *((MODELS[name], *_model(model)) for name, model in by_name.items())], (0,)), ""]
    by_group = {name: {group["group"]: group for group in model["groups"]} for name, model in models.items()}
    rows = [(group, *(_right(by_group[name].get(group)) for name in models)) for group in by_group["full"]]
    return [*lines, *columns([("right of the clear pairs, by group", *models),
                              *(row for row in rows if any(row[1:]))], (0,))]


def _model(model: Result) -> tuple[str, ...]:
    if not model["pairs"]:
        return "none", "", "", "", ""
    return (_right(model), f"{model['share']:.0%}", _format(model["publications"]["share"], ".0%"),
            f"{model['rmse_nats']:.3f}", _format(model["coverage"], ".0%"))


def _right(pairs: Result | None) -> str:
    return f"{pairs['right']:g} of {pairs['pairs']}" if pairs and pairs["pairs"] else ""


def _format(value: float | None, how: str) -> str:
    return "" if value is None else format(value, how)


def _share_interval(interval: Any) -> str:
    return "" if interval is None else f"{interval[0]:.0%} to {interval[1]:.0%}"
