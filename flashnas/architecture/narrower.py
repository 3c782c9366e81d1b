"""A network at another width."""

from dataclasses import replace

from flashnas.architecture.architecture import Architecture
from flashnas.base.errors import FlashnasError
from flashnas.operators import OperatorSpec
from flashnas.operators.spec import largest_divisor

SIZES = {"heads": 1, "k_heads": 1, "intermediate": 16, "shared": 16}  # that follow it, in steps


def narrower(network: Architecture, hidden: int) -> Architecture | None:
    """A network at another width, where its operators fit. Numbers of heads and sizes of feed-forward
    layers that it states keep their ratio to the width."""
    if (share := hidden / network.hidden) == 1:
        return network

    def at_width(spec: OperatorSpec) -> OperatorSpec:
        stated = spec.options()
        sizes = {
            name: step * max(1, round(share * stated[name] / step))
            for name, step in SIZES.items()
            if name in stated
        }
        if "heads" in sizes and "kv_heads" in stated:
            sizes["kv_heads"] = largest_divisor(sizes["heads"], round(share * stated["kv_heads"]))
        return replace(spec, **sizes) if sizes else spec

    try:
        return replace(network, hidden=hidden, operators=tuple(map(at_width, network.operators)))
    except FlashnasError:
        return None
