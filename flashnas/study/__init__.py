"""One search from its problem to its answer: config, problem, scorer, loop, record and answer."""
