"""One colour per operator kind in every figure (Okabe-Ito and Tol hues, told apart by colour-blind readers)."""

from flashnas.operators import OPERATORS

OPERATOR_COLOURS = {
    "a": "#D55E00",    # attention: vermilion, its windowed sister orange
    "swa": "#E69F00",
    "m2": "#009E73",   # Mamba2: green
    "m": "#999933",
    "d": "#0072B2",    # DeltaNet: blue, its gated sister sky blue
    "gd": "#56B4E9",
    "gla": "#CC79A7",
    "r7": "#882255",
    "h": "#332288",    # attention and Mamba2 side by side: indigo
    "f": "#C3C8CE",    # feed-forward: a light grey, so that the mixers stand out
    "moe": "#B5A999",  # its sister with experts: a light brown
}
OTHER_COLOURS = {"head": "#5B6470", "embedding": "#98A2B3"}
OTHER_COLOUR = "#7B8494"  # whatever else is no operator
SPARE_COLOURS = ("#332288", "#117733", "#AA4499", "#661100", "#6699CC")  # operators that this file does not know

KERNEL_COLOURS = {  # a ramp of one hue, apart from the operators' colours
    "matrix products": "#2B2D5B",
    "attention over the context": "#55578F",
    "recurrence": "#8183B4",
    "convolution": "#ABADD0",
    "norms, activations, small kernels": "#D3D4E6",
    "calibration to whole models": "#E9C46A",
    "whole operators": "#6C8EA4",
    "other": "#ECECF4",
}

SOURCE_PATTERNS = {"measured": "", "imported": "", "derived": "/", "roofline": "x"}  # Plotly pattern shapes
SOURCE_MEANING = {
    "measured": "timed on this device by flashnas profile",
    "imported": "a public measurement on this device, cited by the table",
    "derived": "computed from measured rows by a stated rule; wider bounds",
    "roofline": "computed from peak FLOP/s and bandwidth; widest bounds",
}

INK, MUTED, RULE, BUDGET = "#1B1F24", "#667085", "#E4E7EC", "#B42318"


def operator_colour(kind: str) -> str:
    """The colour of an operator's short name; the same one each time for a kind unknown to this file."""
    if kind in OPERATOR_COLOURS:
        return OPERATOR_COLOURS[kind]
    if kind in OPERATORS:
        return SPARE_COLOURS[sum(kind.encode()) % len(SPARE_COLOURS)]
    return OTHER_COLOURS.get(kind, OTHER_COLOUR)


def operator_label(kind: str) -> str:
    """`d (DeltaNet)`: short name and class name; the bare name for what is no operator."""
    names = {"a": "attention", "swa": "sliding-window attention", "m2": "Mamba2", "m": "Mamba", "d": "DeltaNet",
             "gd": "Gated DeltaNet", "gla": "GLA", "r7": "RWKV7", "h": "attention with Mamba2",
             "f": "feed-forward", "moe": "mixture of experts"}
    if kind in names:
        return f"{kind} · {names[kind]}"
    return f"{kind} · {OPERATORS[kind].name.replace('_', ' ')}" if kind in OPERATORS else kind


def operator_order(kind: str) -> tuple[int, str]:
    """Sort key: the palette's order, then spare operators, then embedding and head."""
    known = list(OPERATOR_COLOURS)
    if kind in known:
        return known.index(kind), kind
    return (len(known) if kind in OPERATORS else len(known) + 1), kind
