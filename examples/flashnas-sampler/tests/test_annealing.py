"""The sampler is found by its name, searches, and names wrong options."""

import pytest
from flashnas_sampler.annealing import Annealing

import flashnas as fn
from flashnas.base.errors import ConfigError
from flashnas.samplers import SAMPLERS
from flashnas.space import load_space


def test_a_search_takes_it_by_its_name(tmp_path):
    assert SAMPLERS["annealing"] is Annealing
    run = fn.search(
        space="tiny",
        workload="chat",
        sampler="annealing",
        sampler_options={"initial": 4},
        trials=12,
        evaluator=lambda network: 1 / network.params,
        measure=False,
        baselines=False,
        out=tmp_path / "run",
    )
    assert set(run.trials["state"]) <= {"complete", "reused", "infeasible"}
    assert len(run.trials) >= 12


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": 0},
        {"temperature": float("nan")},
        {"cooling": 1.5},
        {"initial": 0},
    ],
)
def test_wrong_options_are_one_line(options):
    with pytest.raises(ConfigError, match=f"annealing.*{next(iter(options))}"):
        Annealing(
            space=load_space("tiny"),
            seed=0,
            fit_width=lambda genotype: (None, None),
            **options,
        )
