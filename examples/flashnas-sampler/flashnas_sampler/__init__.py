"""Simulated annealing as a search algorithm of flashnas."""
