"""What `flashnas evidence` prints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from flashnas.base.text import columns, tokens_text, with_interval

Result = Mapping[str, Any]  # of a study, as its to_dict() gives it

EFFECTS = {
    "law": "slope of the law of size and shape",
    "mixed": "a second family of mixers",
    "gated_delta": "gated delta rules in place of other mixers",
    "ffn": "(share of parameters in FFNs - 0.3) squared",
}
MODELS = {
    "short": "short: the loss of a short training",
    "law": "law: size and shape",
    "evidence": "evidence: law and mix",
    "full": "full: evidence and short loss",
}
RULES = {
    "shipped": "shipped: the lowest mean, with a charge for what no publication vouches for",
    "mean": "mean: the lowest mean",
    "pure": "pure: the lowest mean of the stacks of one mixer",
    "random": "random: any row",
}
ALONE = 1.5  # times the usual spread from which on a publication is said to stand alone


def evidence_text(result: Result) -> str:
    """The publications, what they say of two mixes, and how far they disagree."""
    rows, publications, disagreement = (
        result[name] for name in ("rows", "publications", "disagreement")
    )
    lines = [
        f"{rows['trainings']} full trainings of mixes by {len(publications)} publications; beside them"
        f" {rows['shapes']} trainings of shapes, {rows['ffn_shares']} of FFN shares, {rows['recall']} of"
        " recall",
        "",
        *columns(
            [
                ("publication", "rows", "groups", "parameters", "tokens", "spread", "mixers"),
                *(_publication(each) for each in publications),
            ],
            (0, 3, 4),
        ),
        "spread: what a publication finds and others do not, over that of the middle one; above"
        f" x{ALONE:g} its gaps count little",
        "",
    ]
    if "mixes" in result:
        lines += [*_mixes(result["mixes"]), ""]
    if "models" in result:
        lines += [*_left_out(result), ""]
    return "\n".join(
        [
            *lines,
            f"two publications order {disagreement['right']} of {disagreement['pairs']} clear pairs of"
            " mixes alike that both have",
            "",
            *columns(
                [
                    ("nats for a full effect", "mean, 90 %", "between publications"),
                    *(
                        (
                            EFFECTS.get(name, name),
                            with_interval(effect["mean"], effect["sd"]),
                            f"{effect['between_publications']:.3f}",
                        )
                        for name, effect in disagreement["effects"].items()
                    ),
                ],
                (0, 1),
            ),
        ]
    )


def _publication(publication: Result) -> tuple[str, ...]:
    spread = "" if publication["spread"] is None else f"x{publication['spread']:.1f}"
    return (
        publication["source"],
        str(publication["rows"]),
        str(len(publication["groups"])),
        _range(publication["params"]),
        _range(publication["tokens"]),
        spread,
        " ".join(publication["mixers"]),
    )


def _mixes(mixes: Result) -> list[str]:
    claims = mixes["said"]
    rows = [
        (
            f"  {claim['source']}",
            f"{claim['mean']:+.3f}",
            f"{claim['pairs']} pair{'s' * (claim['pairs'] > 1)}"
            + (f", {claim['least']:+.3f} to {claim['most']:+.3f}" if claim["pairs"] > 1 else "")
            + f"   ({', '.join(claim['groups'])})",
        )
        for claim in claims
    ]
    if mixes["spread"] is not None:
        rows.append(
            ("", "", f"publications differ by a standard deviation of {mixes['spread']:.3f}")
        )
    rows.append(
        (
            "  model",
            f"{with_interval(mixes['mean'], mixes['sd'])} (90 %)",
            "from all publications, for 1B parameters and 100B tokens",
        )
    )
    return [
        f"{mixes['other']!r} less {mixes['one']!r}, nats per token at equal size and shape (below 0:"
        f" {mixes['other']!r} is better)",
        *([] if claims else ["  no publication has both in one group"]),
        *columns(rows, (0, 1)),
    ]


def _left_out(result: Result) -> list[str]:
    """Each model over the pairs that it has, over those that all have, and by group."""
    models = result["models"]
    lines = []
    for words, by_name in (
        ("each row predicted without its publication", models),
        ("the same, over the pairs that all have", result["models_common"]),
    ):
        lines += [
            *columns(
                [
                    (
                        words,
                        "clear pairs",
                        "share",
                        "publications equal",
                        "RMSE nats",
                        "in 90 % interval",
                    ),
                    *((MODELS[name], *_model(model)) for name, model in by_name.items()),
                ],
                (0,),
            ),
            "",
        ]
    lines += [
        *columns(
            [
                (
                    "regret of a choice without its publication, nats",
                    "pooled",
                    "publications equal",
                ),
                *(
                    (RULES[rule], *(_nats(each[name]) for name in ("pooled", "equal")))
                    for rule, each in result["regret"].items()
                ),
            ],
            (0,),
        ),
        "",
    ]
    by_group = {
        name: {group["group"]: group for group in model["groups"]} for name, model in models.items()
    }
    rows = [
        (group, *(_right(by_group[name].get(group)) for name in models))
        for group in by_group["full"]
    ]
    return [
        *lines,
        *columns(
            [
                ("right of the clear pairs, by group", *models),
                *(row for row in rows if any(row[1:])),
            ],
            (0,),
        ),
    ]


def _model(model: Result) -> tuple[str, ...]:
    if not model["pairs"]:
        return "none", "", "", "", ""
    return (
        _right(model),
        f"{model['share']:.0%}",
        f"{model['publications']['share']:.0%}",
        f"{model['rmse_nats']:.3f}",
        "" if model["coverage"] is None else f"{model['coverage']:.0%}",
    )


def _nats(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def _right(pairs: Result | None) -> str:
    return f"{pairs['right']:g} of {pairs['pairs']}" if pairs and pairs["pairs"] else ""


def _range(values: Sequence[float]) -> str:
    least, most = map(tokens_text, values)
    return least if least == most else f"{least} to {most}"
