"""What `proxy-trust` and `proxy-trust --published` print."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

from flashnas.report.text import columns, known

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
            *((each["variant"], str(each["seeds"]), f"{each['sd']:.4f}", f"{each['detectable']:.4f}",
               f"{each['detectable_mean']:.4f}", f"{each['pairs_tied']:.0%}") for each in result["noise"])],
               (0,))]
    if picks := result["picks"]:
        tops = sorted({pick["top"] for pick in picks})
        value = {(pick["rule"], pick["top"]): f"{pick['regret']:.4f}" for pick in picks}
        value |= {("at random", pick["top"]): f"{pick['by_chance']:.4f}" for pick in picks}
        lines += ["", *columns([
            ("long loss above the best, if picked", *(f"of top {top}" for top in tops)),
            *((rule, *(value.get((rule, top), "") for top in tops)) for rule in dict.fromkeys(
                rule for rule, _ in value))], (0,))]
    return "\n".join(lines)


def verdict(result: Result) -> list[str]:
    """Sentences that a reader can act on, the most important first."""
    failed = f", {result['failed']} more failed" if result["failed"] else ""
    return [f"{result['trainings']} trainings of {result['architectures']} architectures{failed}",
            *_order_words(result), *_front_words(result), *_gain_words(result), *_pick_words(result)]


def headline(result: Result) -> str:
    """The words above the picture: the rank correlation of short and long training with its interval."""
    agreement = _agreement(result, "short", "long")
    return (f"Spearman {_interval(agreement['spearman'])} (95 %), {agreement['count']} architectures"
            if agreement else "too few architectures are trained both short and long")


def _order_words(result: Result) -> Iterable[str]:
    agreement = _agreement(result, "short", "long")
    if agreement is None:
        yield ("not known yet: whether longer training ranks alike (too few architectures are trained short"
               " and long)")
        return
    tokens, rho = result["tokens"], agreement["spearman"]
    factor = tokens["long"] / tokens["short"]
    words = f"Spearman {_interval(rho)} over {agreement['count']} architectures"
    if rho["low"] <= 0:
        yield (f"NOISE: the order cannot be told from chance once training is {factor:g} times longer:"
               f" {words}; do not choose by it")
    elif rho["value"] >= 0.8 and rho["low"] >= 0.5:
        yield f"the order largely holds when training is {factor:g} times longer: {words}"
    else:
        yield (f"the order holds in part when training is {factor:g} times longer: {words};"
               " choose a group by it, not a winner")
    if known(result["ceiling"]):
        yield f"seeds alone would leave room for {result['ceiling']:.3f}"


def _front_words(result: Result) -> Iterable[str]:
    noise = next((n for n in result["noise"] if n["variant"] == "short"), None)
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
    for guess, gain in result["gains"].items():
        agreement = _agreement(result, guess, "long")
        if agreement is None:
            continue
        name = {"parameters": "the parameter count", "width": "the width alone"}[guess]
        against = f"that gives Spearman {_interval(agreement['spearman'])}"
        if gain["low"] > 0:
            yield f"short training ranks better than {name}: {against}"
        elif gain["high"] < 0:
            yield f"NOISE: {name} ranks better than short training: {against}"
        else:
            yield f"not shown: that short training ranks better than {name}, since {against}"


def _pick_words(result: Result) -> Iterable[str]:
    pick = next((p for p in result["picks"] if p["rule"] == "short" and p["top"] == 1), None)
    if pick is None:
        return
    size = next((p["regret"] for p in result["picks"] if p["rule"] == "parameters" and p["top"] == 1), None)
    other = f", the largest {size:.3f}," if known(size) else ""
    yield (f"the best of short training is {pick['regret']:.3f} nats above the best of long training{other}"
           f" a random one {pick['by_chance']:.3f}")


def _agreement(result: Result, first: str, second: str) -> Mapping[str, Any] | None:
    return next((a for a in result["agreements"] if (a["first"], a["second"]) == (first, second)), None)


def _interval(entry: Mapping[str, float]) -> str:
    return f"{entry['value']:.3f} [{entry['low']:.2f}, {entry['high']:.2f}]"


# -- proxy-trust --published ---------------------------------------------------------------------------------

MODELS = {"short": "short: the loss of a short training", "law": "law: size and shape",
          "evidence": "evidence: law and mix", "full": "full: evidence and short loss"}
AMONG = {"one publication by another": "publications", "one publication by its other group": "scales"}


def published_text(result: Result) -> str:
    """The verdict, the models, and of the short loss a table by group, guesses, and the wrong pairs."""
    lines = [*published_verdict(result), "", *_models(result)]
    if result["overall"]["share"] is None:
        return "\n".join(lines)
    groups = [group for group in result["groups"] if group["pairs"]]
    named = [("all groups", result["overall"]), *((group["group"], group) for group in groups),
             ("pairs that all groups agree on", result["consensus"]),
             *((f"guessed by {name}" if name != "a coin" else name, guess)
               for name, guess in result["baselines"].items()),
             *((name, result[key]) for name, key in AMONG.items() if result[key]["pairs"])]
    lines += ["", *columns([("order by the short loss", "right of pairs", "share", "95 % interval",
                             "0.01 to 0.02 nats", "Spearman"), *(_counts(*each) for each in named)], (0, 3))]
    for group in groups:
        lines += _wrong(group)
    return "\n".join(lines)


def published_verdict(result: Result) -> list[str]:
    """Sentences that a reader can act on."""
    full, overall, recipe = result["models"]["full"], result["overall"], result["recipe"]
    lines = []
    if full["pairs"]:
        lines.append(f"published trainings without the row's own publication foretell {full['right']:g} of"
                     f" {full['pairs']} clear pairs ({full['share']:.0%}), differences to"
                     f" {full['rmse_nats']:.3f} nats; {full['coverage']:.0%} lie in the 90 % intervals")
    cost = (f"{result['trainings']} trainings took {result['core_seconds'] / 60:.0f} core-minutes,"
            f" the longest {result['core_seconds_each'] / 60:.1f}")
    if result.get("from_bench"):
        cost += f"; from the shipped bench: {result['from_bench']}"
    if result.get("missing"):
        cost += f"; {result['missing']} were not trained, and their pairs have no short loss"
    if result["failed"]:
        cost += f"; {result['failed']} failed, and their pairs have no short loss"
    if overall["share"] is None:
        return [*lines, "the short loss is not known yet: no clear pair has both of its networks trained",
                cost]
    low = overall["interval"][0]
    words = (f"recipe {recipe['name']!r} orders {overall['right']:g} of {overall['pairs']} clear pairs as"
             f" published ({overall['share']:.0%}, 95 % interval {_share_interval(overall['interval'])})")
    decided = [group for group in result["groups"] if group["share"] is not None]
    worst = min(decided, key=lambda group: group["share"])
    return [*lines, words if low > 0.5 else f"NOISE: {words}: no better than a coin for sure",
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
                            *(_model(MODELS[name], model) for name, model in by_name.items())], (0,)), ""]
    by_group = {name: {group["group"]: group for group in model["groups"]} for name, model in models.items()}
    rows = [(group, *(_right(by_group[name].get(group)) for name in models)) for group in by_group["full"]]
    return [*lines, *columns([("right of the clear pairs, by group", *models),
                              *(row for row in rows if any(row[1:]))], (0,))]


def _model(name: str, model: Result) -> tuple[str, ...]:
    if not model["pairs"]:
        return name, "none", "", "", "", ""
    return (name, _right(model), f"{model['share']:.0%}", _format(model["publications"]["share"], ".0%"),
            f"{model['rmse_nats']:.3f}", _format(model["coverage"], ".0%"))


def _right(pairs: Result | None) -> str:
    return f"{pairs['right']:g} of {pairs['pairs']}" if pairs and pairs["pairs"] else ""


def _format(value: float | None, how: str) -> str:
    return "" if value is None else format(value, how)


def _wrong(group: Result) -> list[str]:
    """The wrong pairs of a group, by the network that comes out too good."""
    behind: dict[str, list[str]] = defaultdict(list)
    for pair in group["wrong"]:
        better, _, worse = pair.partition(" | ")
        behind[worse].append(better)
    if not behind:
        return []
    pairs = len(group["wrong"])
    lines = ["", f"ordered wrongly in {group['group']} ({pairs} pair{'s' if pairs > 1 else ''}):"]
    for worse, betters in sorted(behind.items(), key=lambda item: -len(item[1])):
        lines += [f"  {worse} should be behind", *(f"    {better}" for better in betters)]
    return lines


def _counts(name: str, pairs: Result) -> tuple[str, ...]:
    return (name, f"{pairs['right']:g} of {pairs['pairs']}", _format(pairs["share"], ".0%"),
            _share_interval(pairs.get("interval")), _right(pairs.get("close")),
            _format(pairs.get("spearman"), ".2f"))


def _share_interval(interval: Any) -> str:
    return "" if interval is None else f"{interval[0]:.0%} to {interval[1]:.0%}"
