"""The colours of every figure. Operators state their own (hues of Okabe-Ito and Tol, for
colour-blind readers)."""

from collections.abc import Iterable

from flashnas.operators import OPERATORS

OPERATOR_COLOURS = {kind: OPERATORS[kind].colour for kind in OPERATORS.shipped}
OTHER_COLOURS = {"head": "#5B6470", "embedding": "#98A2B3"}
OTHER_COLOUR = "#7B8494"  # of other names that are not operators

# of a latency: colour, hatch, and what it means
SOURCES = {
    "measured": ("#2B2D5B", "", "timed on this device by flashnas profile"),
    "imported": ("#55578F", "", "a public measurement on this device, cited by the table"),
    "derived": ("#ABADD0", "/", "computed from measured rows by a stated rule; wider bounds"),
    "roofline": ("#E69F00", "x", "computed from peak FLOP/s and bandwidth; widest bounds"),
}

INK, MUTED, SOFT, FAINT, RULE, BUDGET = (
    "#1B1F24",
    "#667085",
    "#98A2B3",
    "#D0D5DD",
    "#E4E7EC",
    "#B42318",
)
# of things that have no colour of their own, such as curves: as many as can be told apart
SERIES = (
    "#D55E00",
    "#2B2D5B",
    "#009E73",
    "#CC79A7",
    "#56B4E9",
    "#E69F00",
    "#7B8494",
    "#0072B2",
    "#882255",
    "#117733",
    "#661100",
    "#999933",
    "#AA4499",
    "#44AA99",
    "#6699CC",
    "#332288",
)


def operator_colour(kind: str) -> str:
    """The colour of an operator's short name, of the embedding or of the head; grey for other
    names.
    """
    return OPERATORS[kind].colour if kind in OPERATORS else OTHER_COLOURS.get(kind, OTHER_COLOUR)


def operator_label(kind: str) -> str:
    """`d · DeltaNet`: short name and label; the bare name of what is not an operator."""
    return f"{kind} · {OPERATORS[kind].label}" if kind in OPERATORS else kind


def operator_order(kind: str) -> tuple[int, str]:
    """Sort key: operators in the order of the registry, then embedding and head."""
    kinds = list(OPERATORS)
    return (kinds.index(kind) if kind in kinds else len(kinds)), kind


def hatch_of(source: str) -> str:
    return SOURCES[source][1] if source in SOURCES else "."


def ordered_sources(names: Iterable[str]) -> list[str]:
    """Those in SOURCES first."""
    return sorted(
        set(names),
        key=lambda name: (list(SOURCES).index(name) if name in SOURCES else len(SOURCES), name),
    )
