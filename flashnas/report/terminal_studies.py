"""What `proxy-trust`, `proxy-trust --published`, `scaling-law` and `evidence` print."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from flashnas.base.quantities import tokens_text
from flashnas.report.text import known, number, parameters

Result = Mapping[str, Any]   # of a study, as its to_dict() gives it

# -- proxy-trust ---------------------------------------------------------------------------------------------

def trust_text(result: Result) -> str:
    """Verdict and figures of a Trust.to_dict()."""
    lines = [*verdict(result), "", f"{'rank correlation (95 % interval)':<36}{'n':>4} "
                                   f" {'Spearman':<22}Kendall"]
    lines += [f"{a['first'] + ' : ' + a['second']:<36}{a['count']:>4}  {_interval(a['spearman']):<22}"
              f"{_interval(a['kendall'])}" for a in result["agreements"]]
    if known(result["ceiling"]):
        lines.append(f"{'what seeds leave room for':<40}  {result['ceiling']:.3f}")
    if result["noise"]:
        lines += ["", f"{'noise between seeds (nats)':<36}{'n':>4}  {'sd':>7}  one run tells apart  means"
                      f" tell apart"
                      "  pairs that cannot be told apart"]
        lines += [f"{n['variant']:<36}{n['seeds']:>4}  {n['sd']:7.4f}  {n['detectable']:19.4f}"
                  f"  {n['detectable_mean']:16.4f}  {n['pairs_tied']:31.0%}" for n in result["noise"]]
    if result["picks"]:
        tops = sorted({pick["top"] for pick in result["picks"]})
        lines += ["", "".join([f"{'long loss above the best, if picked':<36}",
                               *(f"{f'of top {top}':>12}" for top in tops)])]
        for rule in dict.fromkeys(pick["rule"] for pick in result["picks"]):
            lines.append(f"{rule:<36}" + _cells(result, tops, "regret", rule))
        lines.append(f"{'at random':<36}" + _cells(result, tops, "by_chance", result["picks"][0]["rule"]))
    return "\n".join(lines)


def verdict(result: Result) -> list[str]:
    """Sentences that a reader can act on, the most important first."""
    failed = f", {result['failed']} more failed" if result["failed"] else ""
    return [f"{result['trainings']} trainings of {result['architectures']} architectures{failed}",
            *_order_words(result), *_front_words(result), *_gain_words(result), *_pick_words(result)]


def headline(result: Result) -> str:
    """The words above the picture: the rank correlation of short and long training with its interval."""
    found = _agreement(result, "short", "long")
    return (f"Spearman {_interval(found['spearman'])} (95 %), {found['count']} architectures" if found
            else "too few architectures are trained both short and long")


def _order_words(result: Result) -> Iterable[str]:
    found = _agreement(result, "short", "long")
    if found is None:
        yield ("not known yet: whether longer training ranks alike (too few architectures are trained short"
               " and long)")
        return
    tokens, rho = result["tokens"], found["spearman"]
    factor = tokens["long"] / tokens["short"]
    words = f"Spearman {_interval(rho)} over {found['count']} architectures"
    if rho["low"] <= 0:
        yield (f"NOISE: the order cannot be told from chance once training is {factor:g} times longer:"
               f" {words};"
               " do not choose by it")
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
           f" from"
           f" {noise['detectable_mean']:.3f} on; {noise['pairs_tied']:.0%} of all pairs differ by less than"
           f" that")


def _gain_words(result: Result) -> Iterable[str]:
    for guess, gain in result["gains"].items():
        found = _agreement(result, guess, "long")
        if found is None:
            continue
        name = {"parameters": "the parameter count", "width": "the width alone"}[guess]
        against = f"that gives Spearman {_interval(found['spearman'])}"
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


def _cells(result: Result, tops: Iterable[int], name: str, rule: str) -> str:
    values = {pick["top"]: pick[name] for pick in result["picks"] if pick["rule"] == rule}
    return "".join(f"{values[top]:12.4f}" if top in values else f"{'':12}" for top in tops)


# -- proxy-trust --published ---------------------------------------------------------------------------------

MODELS = {"short": "short: the loss of a short training", "law": "law: size and shape",
          "evidence": "evidence: law and mix", "full": "full: evidence and short loss"}
AMONG = {"one publication by another": "publications", "one publication by its other group": "scales"}


def published_text(result: Result) -> str:
    """The verdict, the models, and of the short loss a table by group, guesses, and the wrong pairs by
    name."""
    groups = [group for group in result["groups"] if group["pairs"]]
    width = max([len("pairs that all groups agree on"), *(len(group["group"]) for group in result["groups"])])
    lines = [*published_verdict(result), "", *_models(result, width)]
    if result["overall"]["share"] is None:
        return "\n".join(lines)
    lines += ["", f"{'order by the short loss':<{width}}  right of pairs   share  95 % interval  0.01 to"
                  f" 0.02 nats"
              "  Spearman"]
    named = [("all groups", result["overall"]), *((group["group"], group) for group in groups),
             ("pairs that all groups agree on", result["consensus"]),
             *((f"guessed by {name}" if name != "a coin" else name, found)
               for name, found in result["baselines"].items())]
    lines += [_line(name, found, width) for name, found in named]
    lines += [_line(name, result[key], width) for name, key in AMONG.items() if result[key]["pairs"]]
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
                     f" {full['rmse_nats']:.3f} nats;"
                     f" {full['coverage']:.0%} lie in the 90 % intervals")
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
    known = [group for group in result["groups"] if group["share"] is not None]
    worst = min(known, key=lambda group: group["share"])
    return [*lines, words if low > 0.5 else f"NOISE: {words}: no better than a coin for sure",
            f"the worst group is {worst['group']}: {worst['right']:g} of {worst['pairs']}"
            f" ({worst['share']:.0%})", cost]


def _models(result: Result, width: int) -> list[str]:
    """Each model over the pairs that it has, over those that all have, and by group."""
    models = result["models"]
    lines = []
    for words, found in (("each row foretold without its publication", models),
                         ("the same, over the pairs that all have", result["models_common"])):
        lines += [f"{words:<{max(width, 42)}}  clear pairs     share  publications equal  RMSE nats  in 90 %"
                  f" interval"]
        lines += [_model(MODELS[name], each, max(width, 42)) for name, each in found.items()]
        lines.append("")
    of_group = {name: {group["group"]: group for group in found["groups"]} for name, found in models.items()}
    lines.append(f"{'right of the clear pairs, by group':<{max(width, 42)}}"
                 + "".join(f"  {name:>13}" for name in models))
    for group in of_group["full"]:
        cells = [of_group[name].get(group) for name in models]
        if any(cell and cell["pairs"] for cell in cells):
            shown = [f"{cell['right']:g} of {cell['pairs']}" if cell and cell["pairs"] else ""
                     for cell in cells]
            lines.append(f"{group:<{max(width, 42)}}" + "".join(f"  {text:>13}" for text in shown).rstrip())
    return lines


def _model(name: str, found: Result, width: int) -> str:
    if not found["pairs"]:
        return f"{name:<{width}}  no clear pair"
    equal, right = found["publications"]["share"], f"{found['right']:g} of {found['pairs']}"
    coverage = "" if found["coverage"] is None else f"{found['coverage']:.0%}"
    return (f"{name:<{width}}  {right:<14}  {found['share']:>5.0%} "
            f" {'' if equal is None else format(equal, '.0%'):>18}"
            f"  {found['rmse_nats']:>9.3f}  {coverage:>16}").rstrip()


def _wrong(group: Result) -> list[str]:
    """The wrong pairs of a group, by the network that comes out too good, the one with the most pairs
    first."""
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


def _line(name: str, found: Result, width: int) -> str:
    return f"{name:<{width}}  {_count(found)}".rstrip()


def _count(found: Result) -> str:
    share = found["share"]
    cells: Iterable[str] = (
        f"{found['right']:>5g} of {found['pairs']:<5}",
        f"{'' if share is None else f'{share:.0%}':>7}",
        f"{_share_interval(found.get('interval')):>13}",
        f"{_close(found.get('close')):>17}",
        f"{'' if found.get('spearman') is None else format(found['spearman'], '.2f'):>8}")
    return "  ".join(cells).rstrip()


def _share_interval(interval: Any) -> str:
    return "" if interval is None else f"{interval[0]:.0%} to {interval[1]:.0%}"


def _close(close: Any) -> str:
    return f"{close['right']:g} of {close['pairs']}" if close and close["pairs"] else ""


# -- scaling-law ---------------------------------------------------------------------------------------------

CONSTANTS = ("L0", "a", "alpha", "b", "beta", "c", "gamma")


def scaling_headline(result: Result) -> str:
    """One line: the error at larger sizes beside the paper's."""
    error = result["extrapolation_error"]
    if not known(error):
        return "too few depths and widths to hold the largest ones out"
    return (f"held-out larger sizes: perplexity off by at most {error:.1%},"
            f" {result['mean_extrapolation_error']:.1%} in the mean (the paper: within"
            f" {result['paper_error']:.1%})")


def scaling_text(result: Result) -> str:
    """Law, validation and answer of a ScalingLaw.to_dict()."""
    lines = [f"{result['trainings']} trainings of blocks `{result['pattern']}`"
             + (f", {result['failed']} failed" if result["failed"] else ""), "", *_law(result["law"]), "",
             scaling_headline(result)]
    if known(result["token_extrapolation_error"]):
        lines.append(f"held-out largest token count: perplexity off by at most"
                     f" {result['token_extrapolation_error']:.1%}")
    lines += [*_warnings(result), "", *_ladder(result), *_answer(result)]
    return "\n".join(lines)


def _law(law: Result) -> list[str]:
    one_count = law["c"] is None
    lines = [f"loss = L0 + a depth^-alpha + b width^-beta{'' if one_count else ' + c tokens^-gamma'}   (nats"
             f" per"
             " token)", f"{'constant':<10}{'value':>12}  95 % interval"]
    for name in CONSTANTS:
        if law[name] is not None:
            low, high = law["intervals"].get(name, (None, None))
            lines.append(f"{name:<10}{number(law[name]):>12}  {number(low)} to {number(high)}")
    if one_count:
        lines.append("all trainings have the same tokens; L0 holds their term")
    return [*lines, f"residuals: standard deviation {law['noise_nats']:.4f} nats"]


def _warnings(result: Result) -> list[str]:
    lines = [f"the loss does not fall with {axis} in these trainings: its term is 0, and the answer follows"
             f" the other"
             " terms" for axis in result["gone"]]
    mixing = result["mixing"]
    if mixing is None:
        return lines
    meaning = ("depth pays off later than the law says: for more tokens than these, go deeper"
               if mixing["high"] < 0
               else "depth pays off less with more tokens than the law says" if mixing["low"] > 0
               else "the terms add up, as the law says")
    return [*lines, f"depth and tokens together: {mixing['value']:+.4f} nats for e times both"
                    f" [{mixing['low']:+.4f}, {mixing['high']:+.4f}]; {meaning}"]


def _ladder(result: Result) -> list[str]:
    lines = [f"{result['workload']} on {result['table']}, loss at {result['tokens']:,} tokens",
             f"{'budget (ms)':>12}  {'depth':>5}  {'width':>5} "
             f" {'loss (95 % interval)':<24}{'latency (ms)':>12}"
             "  params", *(f"{number(step['budget_ms']):>12}  {_size(step)}" for step in result["by_budget"])]
    if any(step["extrapolated"] for step in result["by_budget"]):
        lines.append("* larger than any training, so beyond what was checked")
    return lines


def _answer(result: Result) -> list[str]:
    answer = result["answer"]
    if answer is None:
        return []
    beyond = f" (beyond the trained {' and '.join(answer['extrapolated'])})" if answer["extrapolated"] else ""
    return ["", f"within {number(answer['budget_ms'])} ms, the best width of each depth:",
            *(f"{'':>12}  {_size(size)}" for size in answer["by_depth"]),
            f"best: {answer['depth']} blocks at width {answer['width']}{beyond}, loss {answer['loss']:.3f}"
            f" [{answer['low']:.3f}, {answer['high']:.3f}], {number(answer['latency_ms'])} ms"]


def _size(size: Result) -> str:
    mark = "*" if size["extrapolated"] else " "
    loss = f"{size['loss']:.3f} [{size['low']:.3f}, {size['high']:.3f}]"
    return (f"{size['depth']:>5}  {size['width']:>5}{mark} {loss:<24}{number(size['latency_ms']):>12}"
            f"  {parameters(size['params'])}")


# -- evidence ------------------------------------------------------------------------------------------------

EFFECTS = {"law": "slope of the law of size and shape", "mixed": "a second family of mixers",
           "gated_delta": "gated delta rules in place of other mixers",
           "beyond": "slope of what a short training says beyond these",
           "ffn": "(share of parameters in FFNs - 0.3) squared"}
ALONE = 1.5   # times the usual spread from which on a publication is said to stand alone


def evidence_text(found: Result) -> str:
    """The publications, what they say of two mixes, and how far they disagree."""
    rows = found["rows"]
    lines = [f"{rows['trainings']} full trainings of mixes by {len(found['publications'])} publications;"
             f" beside them"
             f" {rows['shapes']} trainings of shapes, {rows['ffn_shares']} of FFN shares, {rows['recall']}"
             f" of recall",
             "", *_publications(found["publications"]), ""]
    if "mixes" in found:
        lines += [*_mixes(found["mixes"]), ""]
    return "\n".join([*lines, *_disagreement(found["disagreement"])])


def _publications(publications: Sequence[Result]) -> list[str]:
    width = max(len("publication"), *(len(each["source"]) for each in publications))
    lines = [f"{'publication':<{width}}  rows  groups  {'parameters':<13}  {'tokens':<13}  spread  mixers"]
    for each in publications:
        spread = "" if each["spread"] is None else f"x{each['spread']:.1f}"
        lines.append(f"{each['source']:<{width}}  {each['rows']:>4}  {len(each['groups']):>6}"
                     f"  {_range(each['params']):<13}  {_range(each['tokens']):<13}  {spread:>6}"
                     f"  {' '.join(each['mixers'])}")
    lines.append("spread: what a publication finds and others do not, over that of the middle one; above"
                 f" x{ALONE:g} its gaps count little")
    return lines


def _mixes(mixes: Result) -> list[str]:
    said = mixes["said"]
    lines = [f"{mixes['other']!r} less {mixes['one']!r}, nats per token at equal size and shape (below 0:"
             f" {mixes['other']!r} is better)"]
    if not said:
        lines.append("  no publication has both in one group")
    width = max([len("model"), *(len(each["source"]) for each in said)])
    for each in said:
        span = f", {each['least']:+.3f} to {each['most']:+.3f}" if each["pairs"] > 1 else ""
        lines.append(f"  {each['source']:<{width}}  {each['mean']:+.3f}   {each['pairs']}"
                     f" pair{'s' if each['pairs'] > 1 else ''}{span}   ({', '.join(each['groups'])})")
    if mixes["spread"] is not None:
        lines.append(f"  {'':<{width}}  publications differ by a standard deviation of {mixes['spread']:.3f}")
    lines.append(f"  {'model':<{width}}  {mixes['mean']:+.3f} +- {mixes['sd']:.3f}   from all publications,"
                 f" for 1B"
                 " parameters and 100B tokens")
    return lines


def _disagreement(found: Result) -> list[str]:
    effects = found["effects"]
    width = max(len(EFFECTS.get(name, name)) for name in effects)
    lines = [f"two publications order {found['right']} of {found['pairs']} clear pairs of mixes alike that"
             f" both have",
             "", f"{'nats for a full effect':<{width}}  {'mean +- sd':<15}  between publications"]
    lines += [f"{EFFECTS.get(name, name):<{width}}  {effect['mean']:+.3f} +- {effect['sd']:.3f}"
              f"  {effect['between_publications']:>20.3f}" for name, effect in effects.items()]
    return lines


def _range(values: Sequence[float]) -> str:
    least, most = map(tokens_text, values)
    return least if least == most else f"{least} to {most}"
