"""Parts that several layers share: norms, short convolutions, rotary positions, projections."""
