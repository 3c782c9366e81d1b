"""The operators computed with torch. `build_layer` imports a layer's module only when it is asked for.

Every layer maps the normalised input to the residual update and has three agreeing forms:

- `reference(x_BTD, state)`: a plain loop over time in float64, the ground truth; read it first;
- `forward(x_BTD, state)`: parallel or chunked, for training and prefill; the returned state continues the sequence;
- `step(x_BD, state)`: one token; a state may be continued only once (caches are written in place).

Shape letters: B batch, T time, D hidden size, H heads, K key dim, V value dim, N chunks, C chunk length or channels.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from flashnas.registry import load_object

if TYPE_CHECKING:
    from flashnas.operators.layer import Layer
    from flashnas.operators.spec import OperatorSpec


def build_layer(spec: OperatorSpec, hidden: int) -> Layer:
    """The torch layer of that operator, without the pre-norm; imports the layer's module when it is called."""
    layer: Layer = load_object(spec.layer)(spec, hidden)
    return layer
