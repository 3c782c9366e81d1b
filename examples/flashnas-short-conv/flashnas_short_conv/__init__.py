"""The gated short convolution of LFM2 as an operator of flashnas."""
