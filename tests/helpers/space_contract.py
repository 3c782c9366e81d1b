"""The contract of a search space, of flashnas' operators or of networks of its own."""

import json

import numpy as np
import optuna

from flashnas.space import SearchSpace, load_space

SAMPLES = 25
ENUMERABLE = 2048  # spaces of up to so many genotypes are enumerated, as search algorithms do


def check_space(space):
    """Check that a search space keeps its contract.

    Args:
        space: the space, or its shipped name or YAML file.
    """
    instance = space if isinstance(space, SearchSpace) else load_space(space)
    check_draws(instance)
    check_encoding(instance)
    check_networks(instance)
    check_size(instance)
    check_features(instance)
    check_identity(instance)


def sampled(space, seed=0, count=SAMPLES):
    """Genotypes: samples, each followed by a mutant of it."""
    rng = np.random.default_rng(seed)
    return [genotype for _ in range(count) for genotype in _pair(space, rng)]


def _pair(space, rng):
    parent = space.sample(rng)
    before = str(parent)
    mutant = space.mutate(parent, rng)
    assert str(parent) == before, f"mutate must not change its parent {before}"
    assert mutant != parent, f"a mutant must differ from its parent {parent}"
    return parent, mutant


def check_draws(space):
    """The generator fixes samples and mutants, which are hashable and canonical."""
    genotypes = sampled(space)
    assert genotypes == sampled(space), "the same seed must give the same samples and mutants"
    assert genotypes != sampled(space, seed=1), "another seed must give other samples"
    for genotype in genotypes:
        hash(genotype)
        assert "\n" not in str(genotype), "str of a genotype must be one line"
        assert space.repair(genotype) == genotype, f"{genotype} must be its own repaired form"


def check_encoding(space):
    """`encode` and `decode` are inverse; all parameters inside the distributions decode to
    canonical genotypes."""
    distributions = space.distributions()
    for genotype in sampled(space):
        params = space.encode(genotype)
        assert set(params) == set(distributions)
        for name, value in params.items():
            try:
                inside = distributions[name]._contains(distributions[name].to_internal_repr(value))
            except ValueError:  # a categorical one, of what is not a choice
                inside = False
            assert inside, f"{name} must be inside {distributions[name]}; got {value!r}"
        assert space.decode(params) == genotype, f"decode must give back {genotype}"
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    for _ in range(SAMPLES):
        genotype = space.decode(study.ask(distributions).params)
        assert space.repair(genotype) == genotype, f"decode must give a canonical {genotype}"
        assert space.decode(space.encode(genotype)) == genotype


def check_networks(space):
    """Each genotype builds networks, largest first; genotypes are equal exactly when they build the
    same.
    """
    known = {}
    for genotype in sampled(space):
        networks = space.architectures(genotype)
        check_network(networks)
        hashes = tuple(network.hash for network in networks)
        again = tuple(network.hash for network in space.architectures(genotype))
        assert hashes == again, f"{genotype} must always build the same networks"
        other = known.setdefault(hashes, genotype)
        assert other == genotype, f"{other} and {genotype} build the same networks"
    labels = [label for label, _ in space.baselines()]
    assert len(set(labels)) == len(labels), "labels of baselines must differ"
    for _, networks in space.baselines():
        check_network(networks)


def check_network(networks):
    """Notation, hash and data of networks that are given from the largest to the smallest."""
    assert len(networks) > 0
    for network in networks:
        assert len(network.notation.splitlines()) == len(network.hash.splitlines()) == 1
        json.dumps(network.to_dict())
    assert len({network.hash for network in networks}) == len(networks)
    sizes = [network.params for network in networks if hasattr(network, "params")]
    assert sizes == sorted(sizes, reverse=True), "the largest must come first"


def check_size(space):
    """`size` is at least the number of genotypes; a small space is enumerated once, in a fixed
    order.
    """
    seen = set(sampled(space))
    assert space.size() >= len(seen)
    if space.size() > ENUMERABLE:
        return
    listed = list(space.enumerate())
    assert listed == list(space.enumerate()), "enumerate must have a fixed order"
    assert len(set(listed)) == len(listed) <= space.size(), "each genotype once"
    assert seen <= set(listed), "enumerate must give all genotypes"


def check_features(space):
    """Features are finite numbers, as many for every genotype."""
    features = np.stack([space.features(genotype) for genotype in sampled(space)])
    assert (features.ndim, features.dtype) == (2, np.float64)
    assert np.isfinite(features).all()


def check_identity(space):
    """`to_dict` is JSON-ready and always the same, and the hash is text."""
    text = json.dumps(space.to_dict(), sort_keys=True)
    assert text == json.dumps(space.to_dict(), sort_keys=True)
    assert isinstance(space.hash, str)
    assert space.hash
