"""State tracking in a permutation group as a synthetic task of flashnas."""
