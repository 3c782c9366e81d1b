"""The contract of a search space, of flashnas' operators or of networks of its own."""

import json

import numpy as np
import optuna

from flashnas.space import SearchSpace, load_space
from flashnas.testing.operator_spec import require

SAMPLES = 40
ENUMERABLE = 2048  # spaces of up to so many genotypes are enumerated, as search algorithms do


def check_space(space):
    """Check that a search space keeps its contract.

    Args:
        space: the space, or its shipped name or YAML file.

    Raises:
        AssertionError: one line that names the space, the rule and the value.
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
    require(
        str(parent) == before, f"space {space.name!r}: mutate must not change its parent {before}"
    )
    require(
        mutant != parent, f"space {space.name!r}: a mutant must differ from its parent {parent}"
    )
    return parent, mutant


def check_draws(space):
    """The generator fixes samples and mutants, which are hashable and canonical."""
    place = f"space {space.name!r}"
    genotypes = sampled(space)
    require(
        genotypes == sampled(space),
        f"{place}: the same seed must give the same samples and mutants",
    )
    require(genotypes != sampled(space, seed=1), f"{place}: another seed must give other samples")
    for genotype in genotypes:
        try:
            hash(genotype)
        except TypeError as error:
            raise AssertionError(f"{place}: a genotype must be hashable: {error}") from error
        require(
            "\n" not in str(genotype),
            f"{place}: str of a genotype must be one line; got {str(genotype)!r}",
        )
        require(
            space.repair(genotype) == genotype,
            f"{place}: a genotype must be its own repaired form: {genotype}",
        )


def check_encoding(space):
    """`encode` and `decode` are inverse; all parameters inside the distributions decode to
    canonical genotypes."""
    place, distributions = f"space {space.name!r}", space.distributions()
    for genotype in sampled(space):
        params = space.encode(genotype)
        require(
            set(params) == set(distributions),
            f"{place}: encode must give the parameters {sorted(distributions)}; got"
            f" {sorted(params)}",
        )
        for name, value in params.items():
            try:
                inside = distributions[name]._contains(distributions[name].to_internal_repr(value))
            except ValueError:  # a categorical one, of what is not a choice
                inside = False
            require(
                inside,
                f"{place}: parameter {name!r} must be inside {distributions[name]}; got {value!r}",
            )
        require(
            space.decode(params) == genotype,
            f"{place}: decode must give back what was encoded: {genotype}",
        )
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    for _ in range(SAMPLES):
        params = study.ask(distributions).params
        genotype = space.decode(params)
        require(
            space.repair(genotype) == genotype and space.decode(space.encode(genotype)) == genotype,
            f"{place}: decode must give a canonical genotype; got {genotype} of {params}",
        )


def check_networks(space):
    """Each genotype builds networks, largest first; genotypes are equal exactly when they build the
    same.
    """
    place = f"space {space.name!r}"
    known = {}
    for genotype in sampled(space):
        networks = space.architectures(genotype)
        require(
            len(networks) > 0,
            f"{place}: architectures must give at least one network; got none of {genotype}",
        )
        check_network(space, networks)
        hashes = tuple(network.hash for network in networks)
        again = tuple(network.hash for network in space.architectures(genotype))
        require(
            hashes == again,
            f"{place}: a genotype must always build the same networks; {genotype} does not",
        )
        other = known.setdefault(hashes, genotype)
        require(
            other == genotype,
            f"{place}: {other} and {genotype} build the same networks and must be equal",
        )
    labels = [label for label, _ in space.baselines()]
    require(
        len(set(labels)) == len(labels), f"{place}: labels of baselines must differ; got {labels}"
    )
    for label, networks in space.baselines():
        require(len(networks) > 0, f"{place}: baseline {label!r} needs at least one network")
        check_network(space, networks)


def check_network(space, networks):
    """Notation, hash and data of networks that are given from the largest to the smallest."""
    place = f"space {space.name!r}"
    for network in networks:
        for name in ("notation", "hash"):
            value = getattr(network, name, None)
            require(
                isinstance(value, str) and value and "\n" not in value,
                f"{place}: {name} of a network must be one line of text; got {value!r}",
            )
        try:
            json.dumps(network.to_dict())
        except (AttributeError, TypeError, ValueError) as error:
            raise AssertionError(
                f"{place}: to_dict of {network.notation} must be JSON-ready: {error}"
            ) from error
    require(
        len({network.hash for network in networks}) == len(networks),
        f"{place}: the networks of one genotype must differ;"
        f" got {[network.notation for network in networks]}",
    )
    sizes = [
        network.params for network in networks if isinstance(getattr(network, "params", None), int)
    ]
    require(
        sizes == sorted(sizes, reverse=True),
        f"{place}: networks must be given from the largest to the smallest; got {sizes} parameters",
    )


def check_size(space):
    """`size` is at least the number of genotypes; a small space is enumerated once, in a fixed
    order.
    """
    place, seen = f"space {space.name!r}", set(sampled(space))
    require(
        space.size() >= len(seen),
        f"{place}: size must be at least {len(seen)}, the number of different"
        f" samples; got {space.size()}",
    )
    if space.size() > ENUMERABLE:
        return
    listed = list(space.enumerate())
    require(listed == list(space.enumerate()), f"{place}: enumerate must have a fixed order")
    require(
        len(set(listed)) == len(listed) <= space.size(),
        f"{place}: enumerate must give every genotype once",
    )
    missing = next(iter(seen - set(listed)), None)
    require(missing is None, f"{place}: enumerate must give all genotypes; {missing} is missing")


def check_features(space):
    """Features are finite numbers, as many for every genotype."""
    place, shapes = f"space {space.name!r}", set()
    for genotype in sampled(space):
        features = space.features(genotype)
        shapes.add(features.shape)
        require(
            features.ndim == 1 and features.dtype == np.float64 and np.isfinite(features).all(),
            f"{place}: features must be finite numbers in float64; got {features} of {genotype}",
        )
    require(len(shapes) == 1, f"{place}: features must have one length; got {shapes}")


def check_identity(space):
    """`to_dict` is JSON-ready, and the hash follows from it."""
    place = f"space {space.name!r}"
    try:
        text = json.dumps(space.to_dict(), sort_keys=True)
    except (TypeError, ValueError) as error:
        raise AssertionError(f"{place}: to_dict must be JSON-ready: {error}") from error
    require(
        text == json.dumps(space.to_dict(), sort_keys=True),
        f"{place}: to_dict must always be the same",
    )
    require(
        isinstance(space.hash, str) and space.hash,
        f"{place}: hash must be text; got {space.hash!r}",
    )
