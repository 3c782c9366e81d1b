"""The result of `flashnas proxy-trust --published` for the terminal."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

Result = Mapping[str, Any]  # PublishedStudy.to_dict()
MODELS = {"short": "short: the loss of a short training", "law": "law: size and shape",
          "evidence": "evidence: law and mix", "full": "full: evidence and short loss"}
AMONG = {"one publication by another": "publications", "one publication by its other group": "scales"}


def published_text(result: Result) -> str:
    """The verdict, the models, and of the short loss a table by group, guesses, and the wrong pairs by name."""
    groups = [group for group in result["groups"] if group["pairs"]]
    width = max([len("pairs that all groups agree on"), *(len(group["group"]) for group in result["groups"])])
    lines = [*published_verdict(result), "", *_models(result, width)]
    if result["overall"]["share"] is None:
        return "\n".join(lines)
    lines += ["", f"{'order by the short loss':<{width}}  right of pairs   share  95 % interval  0.01 to 0.02 nats"
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
                     f" {full['pairs']} clear pairs ({full['share']:.0%}), differences to {full['rmse_nats']:.3f} nats;"
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
        return [*lines, "the short loss is not known yet: no clear pair has both of its networks trained", cost]
    low = overall["interval"][0]
    words = (f"recipe {recipe['name']!r} orders {overall['right']:g} of {overall['pairs']} clear pairs as"
             f" published ({overall['share']:.0%}, 95 % interval {_interval(overall['interval'])})")
    known = [group for group in result["groups"] if group["share"] is not None]
    worst = min(known, key=lambda group: group["share"])
    return [*lines, words if low > 0.5 else f"NOISE: {words}: no better than a coin for sure",
            f"the worst group is {worst['group']}: {worst['right']:g} of {worst['pairs']} ({worst['share']:.0%})", cost]


def _models(result: Result, width: int) -> list[str]:
    """Each model over the pairs that it has, over those that all have, and by group."""
    models = result["models"]
    lines = []
    for words, found in (("each row foretold without its publication", models),
                         ("the same, over the pairs that all have", result["models_common"])):
        lines += [f"{words:<{max(width, 42)}}  clear pairs     share  publications equal  RMSE nats  in 90 % interval"]
        lines += [_model(MODELS[name], each, max(width, 42)) for name, each in found.items()]
        lines.append("")
    of_group = {name: {group["group"]: group for group in found["groups"]} for name, found in models.items()}
    lines.append(f"{'right of the clear pairs, by group':<{max(width, 42)}}"
                 + "".join(f"  {name:>13}" for name in models))
    for group in of_group["full"]:
        cells = [of_group[name].get(group) for name in models]
        if any(cell and cell["pairs"] for cell in cells):
            shown = [f"{cell['right']:g} of {cell['pairs']}" if cell and cell["pairs"] else "" for cell in cells]
            lines.append(f"{group:<{max(width, 42)}}" + "".join(f"  {text:>13}" for text in shown).rstrip())
    return lines


def _model(name: str, found: Result, width: int) -> str:
    if not found["pairs"]:
        return f"{name:<{width}}  no clear pair"
    equal, right = found["publications"]["share"], f"{found['right']:g} of {found['pairs']}"
    coverage = "" if found["coverage"] is None else f"{found['coverage']:.0%}"
    return (f"{name:<{width}}  {right:<14}  {found['share']:>5.0%}  {'' if equal is None else format(equal, '.0%'):>18}"
            f"  {found['rmse_nats']:>9.3f}  {coverage:>16}").rstrip()


def _wrong(group: Result) -> list[str]:
    """The wrong pairs of a group, by the network that comes out too good, the one with the most pairs first."""
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
        f"{_interval(found.get('interval')):>13}",
        f"{_close(found.get('close')):>17}",
        f"{'' if found.get('spearman') is None else format(found['spearman'], '.2f'):>8}")
    return "  ".join(cells).rstrip()


def _interval(interval: Any) -> str:
    return "" if interval is None else f"{interval[0]:.0%} to {interval[1]:.0%}"


def _close(close: Any) -> str:
    return f"{close['right']:g} of {close['pairs']}" if close and close["pairs"] else ""
