"""Small spaces for the tests, written as YAML."""

from flashnas.base.documents import parse_yaml
from flashnas.space.three_stage import ThreeStageSpace

THREE_STAGE = """\
template: three_stage
model: {{vocab: 512, meta_tokens: 2}}
widths: [64, 128]
blocks:
  mixers: {mixers}
  ratios: {ratios}
  ffns_per_mixer: {ffns}
repeats: {repeats}
max_operators: {cap}
"""

HEADS = {"d": "d(head_dim=16)", "a": "a(head_dim=16)", "m2": "m2(head_dim=16,state=16)"}

# name: mixers, ratios, FFNs per mixer, (low, high) repeats of a stage, most operators
SMALL = {
    "two mixers, free repeats": (("d", "a"), ("0:1", "1:1"), (0, 1), (1, 6), 9),
    "three mixers": (("d", "a", "m2"), ("0:1", "1:1"), (1,), (1, 2), 9),
    "long blocks": (("d", "a"), ("0:1", "1:3"), (0, 2), (1, 2), 26),
    "no 0:1": (("d", "a"), ("1:1", "1:2"), (0, 1), (1, 2), 14),
    "fewest repeats above one": (("d", "a"), ("0:1", "1:1"), (0, 1), (2, 3), 18),
    "one mixer": (("d",), ("0:1", "1:3"), (0, 1, 2), (1, 4), 9),
}


def small_space(name):
    mixers, ratios, ffns, repeats, cap = SMALL[name]
    text = THREE_STAGE.format(
        mixers=[HEADS[mixer] for mixer in mixers],
        ratios=list(ratios),
        ffns=list(ffns),
        repeats=list(repeats),
        cap=cap,
    )
    return ThreeStageSpace.from_config(parse_yaml(text, f"{name}.yaml"), name=name)


def write(folder, text):
    path = folder / "x.yaml"
    path.write_text(text)
    return path
