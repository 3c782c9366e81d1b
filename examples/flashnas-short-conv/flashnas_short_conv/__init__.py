"""A gated short convolution as an operator of flashnas."""
