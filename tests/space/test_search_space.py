"""What all templates share: widths, baselines, features, Optuna, loading; and every message for a
bad file.
"""

import re
from pathlib import Path

import numpy as np
import pytest
from cases import data_of
from offenders import every
from one_line import one_line

from flashnas.architecture import Architecture, parse_operators
from flashnas.base.errors import ConfigError, FlashnasError
from flashnas.base.registry import shipped_names
from flashnas.space import load_space
from flashnas.space.operator_space import list_features

SHIPPED = (
    "nemotron_flash",
    "free",
    "layerwise",
    "served",
    "small",
    "tiny",
)


@pytest.fixture(params=SHIPPED)
def space(request):
    return load_space(request.param)


def test_all_shipped_spaces_are_tested():
    assert sorted(shipped_names("search_spaces")) == sorted(SHIPPED)


def test_every_sample_builds_at_every_width_and_is_contained(space):
    rng = np.random.default_rng(0)
    for _ in range(20):
        genotype = space.sample(rng)
        for architecture in space.architectures(genotype):
            assert len(architecture.operators) <= space.max_operators
            assert space.contains(architecture)
            assert space.contains(Architecture.parse(architecture.notation))


def test_baselines_are_pure_at_full_half_and_quarter_depth():
    baselines = dict(load_space("nemotron_flash").pure_models())
    assert list(baselines) == [
        *(f"pure {depth}x({mixer} f)" for mixer in ("d", "a", "m2") for depth in (15, 7, 3)),
        *(f"pure {depth}x(m2)" for depth in (30, 15, 7)),
    ]
    for label, operators in baselines.items():
        assert parse_operators(label.removeprefix("pure ")) == operators


def test_baselines_of_the_papers_space_are_in_it():
    paper = load_space("nemotron_flash")
    assert all(paper.find(operators) is not None for _, operators in paper.pure_models())


def test_features_of_a_worked_example():
    kinds = parse_operators("d a f")
    counts, first, second, last, rest = np.split(
        list_features(parse_operators("d f a f a a f f"), kinds), [3, 6, 9, 12]
    )
    assert counts.tolist() == [1, 3, 4]
    # thirds of 8 operators are 2 2/3 operators long: d f a(2/3) | a(1/3) f a a(1/3) | a(2/3) f f
    assert first * 8 / 3 == pytest.approx([1, 2 / 3, 1])
    assert second * 8 / 3 == pytest.approx([0, 1 / 3 + 1 + 1 / 3, 1])
    assert last * 8 / 3 == pytest.approx([0, 2 / 3, 2])
    assert rest.tolist() == [4 / 8, 8, 1]  # feed-forward layers, depth, changes of the mixer


def test_hash_follows_the_settings_and_not_the_place(tmp_path):
    tiny = load_space("tiny")
    text = Path(tiny.path).read_text()
    copy = load_space(write(tmp_path, text))
    other = load_space(write(tmp_path, text.replace("vocab: 512", "vocab: 600")))
    assert copy.hash == tiny.hash != other.hash
    assert copy.to_dict()["model"] == {"vocab": 512, "tied": True, "meta_tokens": 4}


# -- what a user can get wrong ---------------------------------------------------------------------

BAD = data_of("space/bad")
GOOD = """\
template: three_stage
widths: [1024, 2048]
blocks:
  mixers: [d, a]
  ratios: ["0:1", 1:1]
  ffns_per_mixer: [0, 1]
  ffn: f
repeats: [1, 4]
max_operators: 12
model:
  vocab: 512
"""
LAYERWISE = """\
template: layerwise
widths: [1024]
layers:
  depth: [2, 4]
  choices: [d f, a f]
"""


def write(folder, text):
    path = folder / "x.yaml"
    path.write_text(text)
    return path


def test_the_good_files_load(tmp_path):
    assert load_space(write(tmp_path, GOOD)).ratios == ("0:1", "1:1")
    assert load_space(write(tmp_path, LAYERWISE)).depth == (2, 4)
    for written, repeats in (("repeats: 1", (1, 1)), ("repeats: [1, 2]", (1, 2)), ("", (1, 10))):
        path = write(tmp_path, GOOD.replace("repeats: [1, 4]", written))
        assert load_space(path).repeats == repeats


MANY = ", ".join(f"d(head_dim={n})" for n in range(1, 1000))


@every(
    case=[
        *BAD["three_stage"],
        *BAD["layerwise"],
        ["[d, a]", f"[{MANY}]", "4: blocks.mixers must have at most 256 entries; got 999"],
        ["[d f, a f]", f"[{MANY}]", "5: layers.choices must have at most 256 entries; got 999"],
    ]
)
def test_a_bad_file_gets_one_line(tmp_path, case):
    old, new, message = case
    (text,) = (text for text in (GOOD, LAYERWISE) if old in text)
    path = write(tmp_path, text.replace(old, new, 1))
    assert one_line(ConfigError, load_space, path).startswith(f"{path}:{message}")


@every(
    case=[
        (
            "nemotron-flash",
            "'nemotron-flash' is not a shipped search space (did you mean 'nemotron_flash'?), a"
            " family or a YAML file; shipped: free, layerwise, nemotron_flash, served, small, tiny;"
            " families: granite, granite_moe, lfm2, llama, ministral, nemotron_h, qwen3, qwen3_5, qwen3_moe",
        ),
        ("granit", "'granit' is not a shipped search space (did you mean 'granite'?), a family"),
        ("missing/x.yaml", "missing/x.yaml: no such file"),
        ("x" * 5000, "is not a shipped search space"),
    ]
)
def test_unknown_space_is_named(case):
    source, message = case
    with pytest.raises(FlashnasError, match=re.escape(message)):
        load_space(source)
