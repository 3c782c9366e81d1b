import dataclasses
import re

import pytest
from cases import cases
from offenders import every
from one_line import one_line

from flashnas.architecture import Architecture
from flashnas.base.errors import ConfigError
from flashnas.training.recipe import Recipe, shipped_recipes


def test_recipes_shrink_networks_by_their_factors():
    architecture = Architecture.parse("2048(meta=256): d f m2 f a f")
    proxy = Recipe.load("cpu").proxy_of(architecture)
    assert (proxy.hidden, proxy.vocab, proxy.meta_tokens) == (64, 2048, 8)
    assert [spec.kind for spec in proxy.operators] == ["d", "f", "m2", "f", "a", "f"]
    assert Recipe.load("gpu-paper").proxy_of(architecture) == architecture
    assert Recipe.load("gpu").proxy_of(architecture).hidden == 512
    assert Recipe().proxy_of(Architecture.parse("1024: d f"), vocab=777).vocab == 777
    for name in shipped_recipes():
        assert Recipe.load(name).name == name
    line = one_line(ConfigError, Recipe.load, "cpux")
    assert "'cpux' is neither a shipped recipe (did you mean 'cpu'?)" in line


def test_a_name_makes_no_other_recipe_and_every_setting_does():
    recipe = Recipe()
    assert recipe.digest == Recipe(name="mine").digest == Recipe(micro_batch_sequences=2).digest
    others = (Recipe(least_head_dim=32), Recipe(tokens=1000), Recipe(short_text=True))
    assert len({other.digest for other in (recipe, *others)}) == 4


def test_saved_recipe_loads_back_equal(tmp_path):
    recipe = Recipe(
        name="mine",
        tokens=1000,
        lr_multipliers={"gd": 2.0, "embedding": 0.5},
        clip=0.0,
    )
    recipe.save(tmp_path / "recipe.yaml")
    assert Recipe.load(tmp_path / "recipe.yaml") == recipe
    assert Recipe.from_dict(recipe.to_dict()) == recipe
    changed = Recipe(short_text=True, balance_loss=0, balance_rate=0)
    assert list(changed.to_dict()) == [item.name for item in dataclasses.fields(Recipe)]
    (tmp_path / "quick.yaml").write_text("tokens: 5000\n")
    assert Recipe.load(tmp_path / "quick.yaml") == Recipe(name="quick", tokens=5000)


@every(case=cases("training", "wrong_recipes"))
def test_bad_yaml_gets_one_line_with_its_place(tmp_path, case):
    text, message = case
    (tmp_path / "r.yaml").write_text(text)
    line = one_line(ConfigError, Recipe.load, tmp_path / "r.yaml")
    assert re.search(message, line), line


@every(change=cases("training", "wrong_values_of_recipes"))
def test_wrong_values_are_refused_when_built(change):
    with pytest.raises(ConfigError, match=rf"recipe\.{next(iter(change))} must be"):
        Recipe(**change)


def test_schedule_warms_up_to_the_peak_and_falls_to_its_floor():
    recipe = Recipe(tokens=100 * 1024, warmup_fraction=0.1, final_lr_fraction=0.2)
    factors = [recipe.lr_factor(step) for step in range(recipe.steps)]
    assert (recipe.steps, Recipe(tokens=1).steps, Recipe(tokens=1024 * 3 + 1).steps) == (100, 1, 4)
    assert factors[:10] == sorted(factors[:10])
    assert factors[10:] == sorted(factors[10:], reverse=True)
    assert 0.98 < max(factors) <= 1
    assert 0.2 <= factors[-1] < 0.21
    assert min(factors) > 0
