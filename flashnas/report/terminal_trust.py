"""The result of `flashnas proxy-trust` for the terminal: the verdict in plain words, then its figures."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from flashnas.report.text import known

Result = Mapping[str, Any]  # Trust.to_dict()


def trust_text(result: Result) -> str:
    """Verdict and figures of a Trust.to_dict()."""
    lines = [*verdict(result), "", f"{'rank correlation (95 % interval)':<36}{'n':>4}  {'Spearman':<22}Kendall"]
    lines += [f"{a['first'] + ' : ' + a['second']:<36}{a['count']:>4}  {_interval(a['spearman']):<22}"
              f"{_interval(a['kendall'])}" for a in result["agreements"]]
    if known(result["ceiling"]):
        lines.append(f"{'what seeds leave room for':<40}  {result['ceiling']:.3f}")
    if result["noise"]:
        lines += ["", f"{'noise between seeds (nats)':<36}{'n':>4}  {'sd':>7}  one run tells apart  means tell apart"
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
        yield "not known yet: whether longer training ranks alike (too few architectures are trained short and long)"
        return
    tokens, rho = result["tokens"], found["spearman"]
    factor = tokens["long"] / tokens["short"]
    words = f"Spearman {_interval(rho)} over {found['count']} architectures"
    if rho["low"] <= 0:
        yield (f"NOISE: the order cannot be told from chance once training is {factor:g} times longer: {words};"
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
    yield (f"one run each tells two architectures apart from {least} on, the mean of {noise['seeds']} seeds from"
           f" {noise['detectable_mean']:.3f} on; {noise['pairs_tied']:.0%} of all pairs differ by less than that")


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
